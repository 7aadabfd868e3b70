"""The states of a process and its descendants, as the kernel shows them in ``/proc``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["ProcessState", "states"]


class ProcessState(NamedTuple):
    """``name`` is the kernel's, of 15 characters; ``state`` its letter, as in proc(5); ``parent`` a pid."""

    pid: int
    name: str
    state: str
    parent: int


def states(pid: int, proc: Path = Path("/proc")) -> tuple[ProcessState, ...]:
    """The process ``pid`` first, then its descendants; what ends meanwhile is left out."""
    own = _state(proc, pid)
    if own is None:
        return ()
    return (own, *_descendants(proc, pid))


def _descendants(proc: Path, pid: int) -> Iterator[ProcessState]:
    for child in _children(proc, pid):
        state = _state(proc, child)
        if state is not None:
            yield state
            yield from _descendants(proc, child)


def _children(proc: Path, pid: int) -> list[int]:
    found: list[int] = []
    for children in proc.glob(f"{pid}/task/*/children"):
        try:
            found += map(int, children.read_text().split())
        except (OSError, ValueError):
            continue
    return found


def _state(proc: Path, pid: int) -> ProcessState | None:
    try:
        head, _, rest = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")
        state, parent = rest.split()[:2]
    except (OSError, ValueError):
        return None
    return ProcessState(pid, head.partition("(")[2], state, int(parent))
