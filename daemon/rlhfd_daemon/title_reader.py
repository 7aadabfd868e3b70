"""Reads the command lines of many processes, and leaves alone those whose reading hangs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import structlog

from rlhfd_daemon import procfs
from rlhfd_daemon.probe import Prober, Stuck

__all__ = ["TitleReader"]

TITLE_BYTES = 256
MAX_STUCK = 4  # children that wait; beyond, no title is read until one has its answer
log = structlog.get_logger()


class TitleReader:
    """``/proc/<pid>/cmdline`` needs a lock of that process's memory, which one that hangs in a driver may hold: so
    ``ps`` hangs then. A child reads, and from the file that a stuck one has open follows which process is to be left
    out until that child has its answer."""

    def __init__(self, prober: Prober, proc: Path = procfs.PROC) -> None:
        self._prober = prober
        self._proc = proc
        self._asked = 0
        self._stuck: dict[str, int | None] = {}  # by question: the process that does not answer

    async def read(self, pids: Iterable[int]) -> dict[int, str]:
        """The title of each of ``pids``, which is its first argument; "" for a process that is gone. Whom nothing is
        known about now is left out. :raises EOFError: somebody killed the child; the next call has another."""
        await self._collect()
        left_out = set(self._stuck.values())
        paths = {f"{self._proc}/{pid}/cmdline": pid for pid in pids if pid not in left_out}
        if not paths or len(self._stuck) >= MAX_STUCK:
            return {}
        key = f"titles {self._asked}"
        answer = await self._prober.ask(key, {"read": list(paths), "bytes": TITLE_BYTES})
        if isinstance(answer, Stuck):
            self._asked += 1
            self._stuck[key] = pid = self._culprit(answer.pid)
            if pid is not None:  # else the child was merely slow
                log.warning("reading a process's title hangs", pid=pid, child=answer.pid)
            return {}
        said = {pid: answer.get(path) for path, pid in paths.items()}
        return {pid: text.partition("\0")[0] if isinstance(text, str) else "" for pid, text in said.items()}

    async def _collect(self) -> None:
        """Take the late answers, of which none is of use."""
        for key in list(self._stuck):
            try:
                answer = await self._prober.ask(key, {})  # does not wait, and asks nothing
            except EOFError:
                answer = {}
            if not isinstance(answer, Stuck):
                del self._stuck[key]

    def _culprit(self, child: int) -> int | None:
        pattern = re.compile(rf"{re.escape(str(self._proc))}/(\d+)/cmdline")
        folder = f"{procfs.PROC}/{child}/fd"
        try:
            for name in os.listdir(folder):
                found = pattern.fullmatch(os.readlink(f"{folder}/{name}"))
                if found is not None:
                    return int(found.group(1))
        except OSError:
            pass
        return None
