"""The states of a process and its descendants, as the kernel shows them in ``/proc``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rlhfd_daemon import procfs
from rlhfd_daemon.process_tree import ProcessTree

__all__ = ["ProcessState", "state_letter", "states"]


class ProcessState(NamedTuple):
    """``name`` is the kernel's, of 15 characters; ``state`` its letter, as in proc(5); ``parent`` a pid."""

    pid: int
    name: str
    state: str
    parent: int


def states(pid: int, proc: Path = procfs.PROC) -> tuple[ProcessState, ...]:
    """The process ``pid`` first, then its descendants; what ends meanwhile is left out."""
    own = procfs.stat(pid, proc)
    if own is None:
        return ()
    # Only a kernel with CONFIG_PROC_CHILDREN lists them; without it every process has to be looked at.
    listed = (proc / str(pid) / "task" / str(pid) / "children").exists()
    below = _listed(pid, proc) if listed else _searched(pid, proc)
    found = [own, *(one for one in (procfs.stat(child, proc) for child in below) if one is not None)]
    return tuple(ProcessState(one.pid, one.name, one.state, one.parent) for one in found)


def state_letter(pid: int, proc: Path = procfs.PROC) -> str | None:
    """The state of ``pid`` alone; ``None`` if there is no such process."""
    found = procfs.stat(pid, proc)
    return None if found is None else found.state


def _listed(pid: int, proc: Path) -> list[int]:
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = [child for child in _children(waiting.pop(), proc) if child not in found]
        found += children
        waiting += children
    return found


def _children(pid: int, proc: Path) -> list[int]:
    """A child belongs to the thread that made it."""
    found: list[int] = []
    for children in proc.glob(f"{pid}/task/*/children"):
        try:
            found += map(int, procfs.read_bytes(children).split())
        except (OSError, ValueError):
            continue
    return found


def _searched(pid: int, proc: Path) -> list[int]:
    tree = ProcessTree(proc)
    tree.look()
    return tree.descendants(pid)
