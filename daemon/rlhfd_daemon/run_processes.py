"""One process of a run with what descends from it: what it uses, read from ``/proc``."""

from __future__ import annotations

import os
from pathlib import Path

from rlhfd_daemon import cgroup, procfs
from rlhfd_daemon.nodefs import known
from rlhfd_daemon.observation import Subject
from rlhfd_daemon.oom import Vanished
from rlhfd_daemon.procfs import CLOCK_TICKS, PAGE_BYTES, Stat

__all__ = ["RunProcess", "cpu_ratio"]

LIMIT_SECONDS = 60.0  # a soft limit changes seldom
MAX_CORES = 2.0 * (os.cpu_count() or 1)  # ticks are coarse: in a short interval they can be more than there are


def cpu_ratio(before: Stat, after: Stat, seconds: float) -> float | None:
    """CPU time of one process in ``seconds``, 1.0 is one core. Unknown if it went back or is more than the node has."""
    ticks = after.cpu_ticks - before.cpu_ticks
    if seconds <= 0 or ticks < 0:
        return None
    cores = ticks / CLOCK_TICKS / seconds
    return cores if cores <= MAX_CORES else None


class RunProcess:
    """``subject`` is its run, ``process`` its name there. Where another user's process cannot be looked into, what is
    unknown is left out."""

    def __init__(self, subject: Subject, process: str, first: Stat, proc: Path) -> None:
        self.subject = subject
        self.process = process
        self.pid = first.pid
        self.start_ticks = first.start_ticks
        self.groups = cgroup.groups_of(first.pid, proc)
        self._proc = proc
        self._last: tuple[Stat, float] | None = None
        self._limit: int | None = None
        self._limit_read = float("-inf")
        self.family: tuple[Stat, ...] = ()  # it and its descendants at the last look

    def metrics(self, stat: Stat, descendants: list[int], now: float) -> dict[str, float]:
        """``stat`` is its own, read at ``now`` in monotonic seconds."""
        cpu = None if self._last is None else cpu_ratio(self._last[0], stat, now - self._last[1])
        self._last = stat, now
        children = [found for found in (procfs.stat(pid, self._proc) for pid in descendants) if found is not None]
        self.family = (stat, *children)
        opened, limit = procfs.open_files(self.pid, self._proc), self._open_files_limit(now)
        prefix = f"process/{self.process}"
        return known({
            f"{prefix}/rss_bytes": stat.rss_pages * PAGE_BYTES,
            f"{prefix}/cpu_ratio": cpu,
            f"{prefix}/threads": stat.threads,
            f"{prefix}/open_files": opened,
            f"{prefix}/open_files_ratio": opened / limit if opened is not None and limit else None,
            f"{prefix}/children_rss_bytes": sum(child.rss_pages for child in children) * PAGE_BYTES,
            f"{prefix}/oom_score": procfs.read_int(f"{self._proc}/{self.pid}/oom_score"),
        })  # fmt: skip

    def vanished(self, one: Stat) -> Vanished:
        """``one`` of its family, as it was last seen."""
        child = one.pid != self.pid
        return Vanished(self.subject, self.process, one.pid, one.name, one.rss_pages * PAGE_BYTES, child=child)

    def _open_files_limit(self, now: float) -> int | None:
        if now - self._limit_read >= LIMIT_SECONDS:
            self._limit, self._limit_read = procfs.open_files_limit(self.pid, self._proc), now
        return self._limit
