"""Who is whose child among all processes of the node, kept from look to look so that a look costs little."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rlhfd_daemon import procfs

__all__ = ["ProcessTree"]

LOOKS_PER_SCAN = 60  # a pid that was given to a new process between two looks is noticed after as many


class ProcessTree:
    """Reads a process's parent when it first sees its pid, and again once that parent is gone (it was adopted)."""

    def __init__(self, proc: Path = procfs.PROC) -> None:
        self._proc = proc
        self._parents: dict[int, int] = {}
        self._children: dict[int, list[int]] = {}
        self._looks = 0

    def look(self) -> None:
        """See which processes have come and gone. Costs one listing of ``/proc`` and one read for each new process."""
        if self._looks % LOOKS_PER_SCAN == 0:
            self._parents = {}
        self._looks += 1
        present = set(procfs.pids(self._proc))
        known = {pid: parent for pid, parent in self._parents.items() if pid in present and parent in present}
        for pid in present - known.keys():
            found = procfs.stat(pid, self._proc)
            if found is not None:
                known[pid] = found.parent
        self._parents = known
        self._children = {}
        for pid, parent in known.items():
            self._children.setdefault(parent, []).append(pid)

    def descendants(self, pid: int, without: Collection[int] = ()) -> list[int]:
        """Children, their children, and so on; none of ``without`` and of what descends from those."""
        found: list[int] = []
        seen, waiting = {pid, *without}, [pid]
        while waiting:
            children = [child for child in self._children.get(waiting.pop(), ()) if child not in seen]
            seen.update(children)
            found += children
            waiting += children
        return found
