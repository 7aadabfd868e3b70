"""Starts a Ray head for the tests, with GPUs that are not there, and ends exactly the processes that it started."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from openrlhf.lab import KILL_SECONDS, Lab, LabError, Process, free_ports, start

__all__ = ["ray_head"]

START_SECONDS = 90.0
TERM_SECONDS = 15.0
CPUS, GPUS = 16, 12
OBJECT_STORE_BYTES = 200_000_000
PORT_OPTIONS = ("port", "ray-client-server-port", "dashboard-port", "dashboard-agent-listen-port")

Pids = frozenset[tuple[int, int]]  # process id and start time in clock ticks: ids are used again


@contextmanager
def ray_head(lab: Lab, log: Path | None = None) -> Iterator[str]:
    """A running head; the value is its address for ``RAY_ADDRESS``. At the end none of its processes is left.

    Like a cluster that was there before the run, it knows none of the run's variables. Its log is ``log`` (default:
    inside its temporary folder, which is removed). Raises :class:`LabError`.
    """
    # Ray's unix sockets lie up to 80 characters below this folder, and a socket's path has room for 107.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=None if len(tempfile.gettempdir()) < 16 else "/tmp"))
    ports = dict(zip(PORT_OPTIONS, free_ports(len(PORT_OPTIONS)), strict=True))
    environment = {**lab.environment(), "VLLM_RPC_BASE_PATH": str(folder)}  # killed engines leave their sockets behind
    head = start(_command(lab, folder, ports), environment, log or folder / "head.log", folder)
    try:
        _await_start(head)
        yield f"127.0.0.1:{ports['port']}"
    finally:
        _stop(head)
        shutil.rmtree(folder, ignore_errors=True)


def _command(lab: Lab, folder: Path, ports: dict[str, int]) -> list[str]:
    return [
        str(lab.venv / "bin" / "ray"),
        *("start", "--head", "--block", "--node-ip-address=127.0.0.1", "--include-dashboard=false"),
        *("--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"),
        *(f"--{option}={port}" for option, port in ports.items()),
        *(f"--num-cpus={CPUS}", f"--num-gpus={GPUS}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
        f"--temp-dir={folder}",
    ]


def _await_start(head: Process) -> None:
    def ready() -> bool:
        if head.returncode is not None:
            raise LabError(f"ray start ended with {head.returncode}\n{head.tail()}")
        return b"Ray runtime started" in head.log.read_bytes()

    if not _poll(ready, START_SECONDS):
        raise LabError(f"no Ray head after {START_SECONDS:.0f} s\n{head.tail()}")


def _stop(head: Process) -> None:
    family = _family(head.pid)
    if head.returncode is None:
        os.killpg(head.pid, signal.SIGTERM)  # Ray ends its own children

    def all_gone() -> bool:
        nonlocal family
        family |= _family(head.pid)
        return head.returncode is not None and not _alive(family)

    if _poll(all_gone, TERM_SECONDS):
        return
    for pid, _ in _alive(family):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if not _poll(all_gone, KILL_SECONDS):
        raise LabError(f"processes of the Ray head outlive SIGKILL: {sorted(_alive(family))}")


def _poll(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _family(root: int) -> Pids:
    """``root``, its descendants and every process of its session."""
    table = {pid: stat for pid in _pids() if (stat := _stat(pid)) is not None}
    found = {pid for pid, (_, _, session, _) in table.items() if pid == root or session == root}
    grown = True
    while grown:
        more = {pid for pid, (_, parent, _, _) in table.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return frozenset((pid, table[pid][3]) for pid in found)


def _alive(family: Pids) -> Pids:
    """Those of the family that still run; a zombie does not."""
    return frozenset(
        (pid, began) for pid, began in family if (stat := _stat(pid)) and stat[0] != "Z" and stat[3] == began
    )


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> tuple[str, int, int, int] | None:
    """State, parent, session and start time of a process, from ``/proc/PID/stat`` (proc(5)); ``None`` if gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return fields[0], int(fields[1]), int(fields[3]), int(fields[19])
