"""Whose GPU memory it is: from NVML's pids to runs and roles."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rlhfd_daemon import procfs
from rlhfd_daemon.gpu.node import in_first_pid_namespace, opens_gpu
from rlhfd_daemon.observation import Subject
from rlhfd_daemon.process_names import ProcessNames
from rlhfd_daemon.runs import Runs

__all__ = ["Owners"]

MAX_PARENTS = 8


class Owners:
    """Asked once a reading. A child of an observed process counts as that process: vLLM's engine core is one."""

    def __init__(self, runs: Runs, names: ProcessNames, proc: Path = procfs.PROC) -> None:
        self._runs = runs
        self._names = names
        self._proc = proc
        # Drivers differ in whose pids they tell inside a container; there a pid alone proves nothing.
        self._are_pids_certain = in_first_pid_namespace(proc)

    def of(self, pids: Iterable[int]) -> dict[int, tuple[Subject, str]]:
        """The run, and the process's name in metrics, of those of ``pids`` that belong to a run."""
        known = self._known()
        found: dict[int, tuple[Subject, str]] = {}
        for pid in pids if known else ():
            owner = self._owner(pid, known)
            if owner is not None and (self._are_pids_certain or opens_gpu(pid, self._proc)):
                found[pid] = owner
        return found

    def _known(self) -> dict[int, tuple[Subject, str]]:
        return {
            stream.peer.pid: (Subject(run.run, run.boot), name)
            for run in list(self._runs.runs.values())
            if run.live
            for name, stream in self._names.of(run).values()
        }

    def _owner(self, pid: int, known: dict[int, tuple[Subject, str]]) -> tuple[Subject, str] | None:
        for _ in range(MAX_PARENTS):
            if pid in known:
                return known[pid]
            process = procfs.stat(pid, self._proc)
            if process is None or process.parent <= 1:
                return None
            pid = process.parent
        return None
