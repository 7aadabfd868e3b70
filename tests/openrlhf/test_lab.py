"""The lab itself: found at once, side by side with rlhfd's own import hook, broken on request, gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf.lab import HERE, SHIM, Lab, LabError
from openrlhf.ray_head import ray_head
from openrlhf.runs import start_ppo, start_sft

pytestmark = pytest.mark.timeout(2400)  # the first test may have to build the environment


def test_a_built_environment_is_found_at_once(lab: Lab) -> None:
    found = subprocess.run([HERE / "build_env.sh"], capture_output=True, text=True, timeout=5, check=True)
    assert found.stdout == f"{lab.venv}\n"
    assert found.stderr == ""


@pytest.mark.parametrize("first", ["emitter", "shim"])
def test_the_shim_and_the_emitter_can_watch_the_same_module(first: str) -> None:
    program = """
import sys
import lab_imports
from rlhfd_emitter import import_hook

sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, lab_imports.PatchFinder)]
seen = []
lab_imports.after_import("colorsys")(lambda module: seen.append("shim"))
hooks = [lab_imports.install, lambda: import_hook.install({"colorsys": lambda module: seen.append("emitter")})]
for hook in hooks if sys.argv[1] == "shim" else hooks[::-1]:
    hook()
import colorsys
print(*sorted(seen))
"""
    done = python(["-c", program, first], path=SHIM)
    assert (done.stdout, done.stderr) == ("emitter shim\n", "")


def test_a_broken_emitter_raises_in_every_call() -> None:
    program = "from rlhfd_emitter.emitter import Emitter; Emitter()"
    done = python(["-c", program], path=SHIM, LAB_BREAK_RLHFD="raise")
    assert "broken on purpose" in done.stderr


def test_an_unimportable_emitter_cannot_be_imported() -> None:
    done = python(["-c", "import rlhfd_emitter.emitter"], path=SHIM / "unimportable")
    assert "unimportable by the lab" in done.stderr


def test_two_runs_do_not_take_each_others_ports() -> None:
    program = """
import socket
import lab_ports
lab_ports.install()
sockets = [socket.socket() for _ in range(40)]
for each in sockets:
    each.bind(("127.0.0.1", 0))
ports = {each.getsockname()[1] for each in sockets}
print(len(ports), min(ports) >= lab_ports.LOWEST, max(ports) < 32768)
"""
    assert python(["-c", program], path=SHIM).stdout == "40 True True\n"


def test_what_no_run_could_do_is_refused_before_it_starts(tmp_path: Path) -> None:
    lab, log = Lab(tmp_path), tmp_path / "run.log"
    with pytest.raises(LabError, match="steps must be 1 to 250, not 251"):
        start_sft(lab, "long", steps=251, log=log)
    with pytest.raises(LabError, match=r"reward must be one of healthy, .*slow.*, not 'none'"):
        start_ppo(lab, "127.0.0.1:1", "odd", steps=1, log=log, reward="none")
    assert not log.exists()


def test_a_ray_head_takes_its_processes_with_it(lab: Lab, tmp_path: Path) -> None:
    with ray_head(lab, tmp_path / "head.log") as address:
        port = address.rpartition(":")[2]
        mine = [pid for pid in pids() if f"--gcs_server_port={port}".encode() in command_line(pid)]
        assert mine
    assert not [pid for pid in mine if command_line(pid)]


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def python(arguments: list[str], path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables, "PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60)
