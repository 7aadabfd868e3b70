"""The latest value of every metric of every run: what `/metrics` shows and `rlhfd topology` looks up. Bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rlhfd_daemon.frame import Frame
from rlhfd_daemon.metrics import lookup
from rlhfd_daemon.runs import DAEMON_ROLE, Run, Runs
from rlhfd_daemon.sample import Sample

__all__ = ["NODE", "Latest", "Process", "Shown"]

MAX_SERIES = 20_000
MAX_SERIES_PER_RUN = 10_000
MAX_USER_NAMES = 200  # of one launch of a run, in no row of the metric table
MAX_RUNS = 64
STALE_SECONDS = 3600.0
ENDED_SECONDS = 900.0
PRUNE_SECONDS = 10.0
NODE = "node:"  # begins the name of the run that is the node, see observation.py


class Process(NamedTuple):
    """Whom a value belongs to; ``role`` is ``None`` for what the daemon itself observed."""

    role: str | None
    rank: int | None


class Shown(NamedTuple):
    """The values of one process of a run to be shown; ``run`` is ``None`` for the node."""

    run: str | None
    process: Process
    samples: list[Sample]


@dataclass
class _Launch:
    """One launch of a run, or one start of the node."""

    processes: dict[tuple[str, int | None], dict[str, Sample]] = field(default_factory=dict)
    user_names: set[str] = field(default_factory=set)
    series: int = 0


class Latest:
    """A sink. ``dropped_total`` are values left out because a bound was reached; nothing else forgets a value but an
    hour without a newer one, a newer launch of the run, and a quarter of an hour after the run's end.

    ``polled`` says for names by their first part (``gpu``) how many seconds without a newer value mean that pollers no
    longer see what it is about: a lost GPU must not show its last temperature for an hour.
    """

    def __init__(self, runs: Runs, *, max_series: int = MAX_SERIES, polled: Mapping[str, float] | None = None) -> None:
        self.series = 0
        self.dropped_total = 0
        self._runs = runs
        self._max_series = max_series
        self._polled = dict(polled or {})
        self._launches: dict[tuple[str, str], _Launch] = {}
        self._pruned_at = 0.0

    def take(self, frame: Frame, samples: Sequence[Sample]) -> None:
        """Keep what is in ``samples``, all of ``frame``'s run."""
        if not samples:
            return
        launch = self._launches.get((frame.run, frame.boot))
        if launch is None:
            launch = self._launches[(frame.run, frame.boot)] = _Launch()
        key, known = None, {}
        for sample in samples:
            if key is None or sample.rank != key[1] or sample.role != key[0]:
                key = (sample.role, sample.rank)
                known = launch.processes.get(key) or launch.processes.setdefault(key, {})
            if sample.name in known or self._admit(launch, sample):
                known[sample.name] = sample

    def value(self, run: str, boot: str, name: str, role: str = DAEMON_ROLE, rank: int | None = None) -> Sample | None:
        """The latest sample of one metric, however old."""
        launch = self._launches.get((run, boot))
        return None if launch is None else launch.processes.get((role, rank), {}).get(name)

    def shown(self, now: float) -> list[Shown]:
        """What may be seen at ``now`` (Unix seconds), the newest runs first."""
        self._prune(now)
        return [
            Shown(
                None if _is_node(run.run, role) else run.run,
                Process(None if role == DAEMON_ROLE else role, rank),
                list(samples.values()),
            )
            for run in self.runs(now)
            for (role, rank), samples in self._processes(run)
        ]

    def runs(self, now: float) -> list[Run]:
        """The newest launch of each of the newest runs that live or ended lately, and of the node."""
        newest: dict[str, Run] = {}
        for run in self._runs.runs.values():
            before = newest.get(run.run)
            if before is None or run.first_seen >= before.first_seen:
                newest[run.run] = run
        lately = [run for run in newest.values() if run.live or run.last_seen > now - ENDED_SECONDS]
        return sorted(lately, key=lambda run: (not run.is_training, run.live, run.first_seen), reverse=True)[:MAX_RUNS]

    def _processes(self, run: Run) -> Iterator[tuple[tuple[str, int | None], dict[str, Sample]]]:
        launch = self._launches.get((run.run, run.boot))
        if launch is not None:
            yield from launch.processes.items()

    def _admit(self, launch: _Launch, sample: Sample) -> bool:
        """Whether a name that is new to its process may be kept."""
        if self.series >= self._max_series:
            self._prune(sample.time)
        is_full = self.series >= self._max_series or launch.series >= MAX_SERIES_PER_RUN
        if is_full or not self._admit_name(launch, sample.name):
            self.dropped_total += 1
            return False
        launch.series += 1
        self.series += 1
        return True

    def _admit_name(self, launch: _Launch, name: str) -> bool:
        if name in launch.user_names or lookup(name) is not None:
            return True
        if len(launch.user_names) >= MAX_USER_NAMES:
            return False
        launch.user_names.add(name)
        return True

    def _prune(self, now: float) -> None:
        """Forget what may no longer be seen. Every 10 s at most: a flood must not make every value cost a search."""
        if abs(now - self._pruned_at) < PRUNE_SECONDS:
            return
        self._pruned_at = now
        seen = {(run.run, run.boot) for run in self.runs(now)}
        self._launches = {key: launch for key, launch in self._launches.items() if key in seen}
        for launch in self._launches.values():
            self._forget_stale(launch, now)
        self.series = sum(launch.series for launch in self._launches.values())

    def _forget_stale(self, launch: _Launch, now: float) -> None:
        """In place: a process may be about to get its next value."""
        for (role, _), samples in launch.processes.items():
            lives = self._polled if role == DAEMON_ROLE else {}
            for name in [
                name
                for name, sample in samples.items()
                if sample.time <= now - lives.get(name.partition("/")[0], STALE_SECONDS)
            ]:
                del samples[name]
        launch.series = sum(map(len, launch.processes.values()))
        launch.user_names &= {name for samples in launch.processes.values() for name in samples}


def _is_node(run: str, role: str) -> bool:
    return role == DAEMON_ROLE and run.startswith(NODE)
