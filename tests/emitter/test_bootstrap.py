"""What happens at interpreter start: which processes are attached to, and that all others pay and notice nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import rlhfd_emitter
from rlhfd_emitter.bootstrap import main_program, process_kind

WORKERS = "/venv/lib/python3.11/site-packages/ray/_private/workers"
KINDS = {
    # Ray
    f"python -u {WORKERS}/default_worker.py --node-ip-address=10.0.0.1 --object-store-name=/tmp/ray/s": "ray_worker",
    f"python {WORKERS}/default_worker.py": "ray_worker",
    f"python {WORKERS}/setup_worker.py --worker-setup-hook=x python {WORKERS}/default_worker.py": None,
    f"python -u {WORKERS}/io_worker.py --worker-type=spill": None,
    "python -u /venv/ray/dashboard/agent.py --node-ip-address=10.0.0.1": None,
    "python -u /venv/ray/_private/runtime_env/agent/main.py": None,
    "python -u /venv/ray/_private/log_monitor.py --session-dir=/tmp/ray": None,
    "python -u /venv/ray/autoscaler/_private/monitor.py": None,
    "python /venv/bin/ray start --head": None,
    "python /venv/bin/ray job submit -- python -m openrlhf.cli.train_ppo_ray": None,
    "python default_worker.py.bak": None,
    "python /home/me/my_default_worker.py": None,
    # the driver
    "python -m openrlhf.cli.train_ppo_ray --train.async_enable": "driver",
    "python3 -mopenrlhf.cli.train_ppo_ray": "driver",
    "python -u -X dev -m openrlhf.cli.train_ppo_ray": "driver",
    "python -W ignore -W error::UserWarning -m openrlhf.cli.train_ppo_ray": "driver",
    "python -Wignore -Xutf8 -O -m openrlhf.cli.train_ppo_ray": "driver",
    "python -um openrlhf.cli.train_ppo_ray": "driver",
    "python --check-hash-based-pycs never -m openrlhf.cli.train_ppo_ray": "driver",
    "python openrlhf/cli/train_ppo_ray.py": "driver",
    "python -u /src/OpenRLHF/openrlhf/cli/train_ppo_ray.py --x": "driver",
    "python ./openrlhf/cli/train_ppo_ray.py": "driver",
    "python /src/other/cli/train_ppo_ray.py": None,
    # ranks, and what launches them
    "python -u -m openrlhf.cli.train_sft --local_rank=3 --x": "rank",
    "python -u -m openrlhf.cli.train_rm --local_rank=0": "rank",
    "python -u -m openrlhf.cli.train_dpo": "rank",
    "python -u -m openrlhf.cli.train_kto": "rank",
    "python -u /src/openrlhf/cli/train_sft.py": "rank",
    "python /venv/bin/deepspeed --module openrlhf.cli.train_sft --x": None,
    "python -u -m deepspeed.launcher.launch --world_info=e30= --module openrlhf.cli.train_sft": None,
    "python /venv/bin/torchrun --nproc-per-node 8 -m openrlhf.cli.train_sft": None,
    "python -m torch.distributed.run -m openrlhf.cli.train_sft": None,
    # the same package, but no training
    "python -m openrlhf.cli.serve_rm": None,
    "python -m openrlhf.cli.batch_inference": None,
    # everything else
    "python": None,
    "python -": None,
    "python -i": None,
    "python -c pass -m openrlhf.cli.train_sft": None,
    "python -cpass openrlhf/cli/train_sft.py": None,
    "python -uc pass": None,
    "python -c from_multiprocessing.spawn_import_spawn_main --multiprocessing-fork": None,
    "python -m": None,
    "python -W": None,
    "python -m pip install openrlhf": None,
    "python /venv/bin/pytest tests/openrlhf/cli/train_sft.py": None,
    "python -m pytest -m openrlhf.cli.train_sft": None,
    "python -m rlhfd_daemon daemon": None,
}


@pytest.mark.parametrize(("command", "kind"), KINDS.items())
def test_a_process_is_recognised_by_its_command_line(command: str, kind: str | None) -> None:
    assert process_kind(command.split()) == kind


PROGRAMS = [
    (["python"], None),
    (["python", "-m", "a.b", "-m", "c"], "a.b"),
    (["python", "-ma.b"], "a.b"),
    (["python", "-E", "-s", "script.py", "-m", "c"], "script.py"),
    (["python", "-X", "importtime", "script.py"], "script.py"),
    (["python", "-W", "-m", "script.py"], "script.py"),
    (["python", "-c", "code", "x"], None),
    (["python", "-"], None),
    ([], None),
]


@pytest.mark.parametrize(("argv", "program"), PROGRAMS)
def test_the_main_program_is_found_behind_the_interpreter_s_options(argv: list[str], program: str | None) -> None:
    assert main_program(argv) == program


SHOW = (
    "import os, sys\n"
    "print(*sorted(name for name in sys.modules if name.startswith(('rlhfd_emitter', 'zmq', 'msgpack'))))\n"
    "print(sum(type(finder).__name__ == 'AfterImportFinder' for finder in sys.meta_path))\n"
    "print(os.environ.get('RAY_RUNTIME_ENV_HOOK'))\n"
)
PATHS = {"rank": "openrlhf/cli/train_sft.py", "driver": "openrlhf/cli/train_ppo_ray.py", "other": "other.py"}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    for path in PATHS.values():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(SHOW)
    return tmp_path


def run(directory: Path, kind: str, environ: Mapping[str, str]) -> list[str]:
    """The lines of :data:`SHOW`, printed by a program of the given kind that was started with ``environ``."""
    module = PATHS[kind].removesuffix(".py").replace("/", ".")
    result = subprocess.run(
        [sys.executable, "-m", module], capture_output=True, text=True, timeout=30, check=True,
        env={**os.environ, "PYTHONPATH": str(directory), **environ},
    )  # fmt: skip
    assert result.stderr == ""
    return result.stdout.splitlines()


@pytest.mark.parametrize("kind", PATHS)
def test_without_a_run_nothing_is_imported(kind: str, programs: Path) -> None:
    assert run(programs, kind, {}) == ["", "0", "None"]
    assert run(programs, kind, {"RLHFD_RUN": ""}) == ["", "0", "None"]


def test_in_a_run_a_rank_gets_the_hooks_and_a_driver_only_ray_s_variable(programs: Path) -> None:
    modules, finders, hook = run(programs, "rank", {"RLHFD_RUN": "r"})
    assert "rlhfd_emitter.hooks" in modules.split()
    assert (finders, hook) == ("1", "None")
    modules, finders, hook = run(programs, "driver", {"RLHFD_RUN": "r"})
    assert modules.split() == ["rlhfd_emitter", "rlhfd_emitter.bootstrap", "rlhfd_emitter.ray_env"]
    assert (finders, hook) == ("0", "rlhfd_emitter.ray_env.runtime_env_hook")


def test_in_a_run_other_processes_load_only_the_decision(programs: Path) -> None:
    assert run(programs, "other", {"RLHFD_RUN": "r"}) == ["rlhfd_emitter rlhfd_emitter.bootstrap", "0", "None"]


@pytest.mark.parametrize("kind", PATHS)
def test_the_switch_off_wins_over_the_run(kind: str, programs: Path) -> None:
    _, finders, hook = run(programs, kind, {"RLHFD_RUN": "r", "RLHFD_DISABLE": "1"})
    assert (finders, hook) == ("0", "None")


def test_starting_twice_attaches_once(programs: Path) -> None:
    twice = "from rlhfd_emitter.bootstrap import start; start(); start()\n" + SHOW
    (programs / PATHS["rank"]).write_text(twice)
    assert run(programs, "rank", {"RLHFD_RUN": "r"})[1:] == ["1", "None"]


BROKEN = {
    "an error": "raise RuntimeError('broken')",
    "a syntax error": "def",
    "a missing module": "import not_installed",
    "an exit": "raise SystemExit(3)",
    "an interrupt": "raise KeyboardInterrupt",
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("part", ["bootstrap", "hooks", "ray_env"])
def test_what_goes_wrong_in_our_start_never_reaches_the_program(part: str, how: str, programs: Path) -> None:
    package = programs / "rlhfd_emitter"  # found before the installed one
    shutil.copytree(Path(rlhfd_emitter.__file__).parent, package)
    (package / f"{part}.py").write_text(BROKEN[how])
    kind = "driver" if part == "ray_env" else "rank"
    _, finders, hook = run(programs, kind, {"RLHFD_RUN": "r"})
    assert (finders, hook) == ("0", "None")


@pytest.mark.parametrize("how", ["an error", "a syntax error", "a missing module"])
def test_start_never_raises_where_no_one_else_guards_it(how: str, programs: Path) -> None:
    """``rlhfd.start`` (Python 3.15) names the function itself; ``rlhfd.pth`` has a guard of its own."""
    shutil.copytree(Path(rlhfd_emitter.__file__).parent, programs / "rlhfd_emitter")
    (programs / "rlhfd_emitter/hooks.py").write_text(BROKEN[how])
    again = "from rlhfd_emitter import bootstrap; bootstrap._started = False; bootstrap.start()\n"
    (programs / PATHS["rank"]).write_text(again + SHOW)
    assert run(programs, "rank", {"RLHFD_RUN": "r"})[1:] == ["0", "None"]
