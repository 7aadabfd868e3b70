"""The names of a run's processes in metric names: ``PolicyModelActor-0``, ``RolloutRayActor``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from rlhfd_daemon.runs import DAEMON_ROLE, Run, Stream

__all__ = ["ProcessNames", "free_name"]

MAX_ROLE = 64  # the name is only a part of a metric name, which may have 128 bytes


class ProcessNames:
    """A process is called ``<role>-<rank>``, or ``<role>`` without a rank; whoever comes later to a name that is taken
    gets ``-1``, ``-2`` and so on behind it. It keeps its name as long as it lives; then the name is free again."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], dict[str, str]] = {}

    def of(self, run: Run) -> dict[str, tuple[str, Stream]]:
        """The name and stream of each live process of ``run`` whose pid is known, by stream; several streams of one
        process count as the first of them."""
        firsts: dict[int, Stream] = {}
        for stream in run.streams.values():
            if stream.ended is None and stream.role != DAEMON_ROLE and stream.peer.pid > 0:
                firsts.setdefault(stream.peer.pid, stream)
        names = self._names.get((run.run, run.boot), {})
        names = {stream.stream: names[stream.stream] for stream in firsts.values() if stream.stream in names}
        for stream in firsts.values():
            if stream.stream not in names:
                names[stream.stream] = free_name(_base(stream), names.values())
        self._names[(run.run, run.boot)] = names
        return {stream.stream: (names[stream.stream], stream) for stream in firsts.values()}

    def keep(self, runs: Iterable[Run]) -> None:
        """Forget all runs but these."""
        kept = {(run.run, run.boot) for run in runs}
        self._names = {key: names for key, names in self._names.items() if key in kept}


def _base(stream: Stream) -> str:
    role = stream.role.replace("/", "_")[:MAX_ROLE]
    return role if stream.rank is None else f"{role}-{stream.rank}"


def free_name(base: str, taken: Iterable[str]) -> str:
    """``base``, or with the first number behind it that is not among ``taken``."""
    used = set(taken)
    numbered = (f"{base}-{number}" for number in itertools.count(1))
    return next(name for name in itertools.chain([base], numbered) if name not in used)
