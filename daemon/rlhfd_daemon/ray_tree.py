"""Finds the raylets of the node and what descends from them, by ``/proc`` alone."""

from __future__ import annotations

from pathlib import Path

from rlhfd_daemon import procfs
from rlhfd_daemon.procfs import Stat

__all__ = ["RayTree"]

RAYLET = "raylet"
LOOKS_PER_SCAN = 60  # a pid that was given to a new process between two looks is noticed after as many


class RayTree:
    """Kept from look to look, so that a look costs one listing of ``/proc`` and two reads for each new process: at the
    first it may not have become what it is going to be."""

    def __init__(self, proc: Path = procfs.PROC) -> None:
        self._proc = proc
        self._known: dict[int, Stat] = {}
        self._new: set[int] = set()
        self._children: dict[int, list[int]] = {}
        self._looks = 0

    def look(self) -> list[int]:
        """The raylets that there are."""
        if self._looks % LOOKS_PER_SCAN == 0:
            self._known = {}
        self._looks += 1
        present = {0, *procfs.pids(self._proc)}
        known = {
            pid: one
            for pid, one in self._known.items()
            if pid in present and one.parent in present and pid not in self._new
        }
        self._new = present - self._known.keys()
        for pid in present - known.keys():
            found = procfs.stat(pid, self._proc)
            if found is not None:
                known[pid] = found
        self._known, self._children = known, {}
        for pid, one in known.items():
            self._children.setdefault(one.parent, []).append(pid)
        return sorted(pid for pid, one in known.items() if one.name == RAYLET and self._runs(pid))

    def children(self, pid: int) -> list[int]:
        """Those of ``pid`` at the last look, without raylets."""
        return [child for child in self._children.get(pid, ()) if self._known[child].name != RAYLET]

    def _runs(self, pid: int) -> bool:
        now = procfs.stat(pid, self._proc)
        return now is not None and now.state not in "ZX"
