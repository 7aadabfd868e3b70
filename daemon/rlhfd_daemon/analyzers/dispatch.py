"""Which analyzers watch which series: asked once per series, so that a sample costs only those that it concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Protocol

from rlhfd_alerts.finding import Finding
from rlhfd_daemon.sample import Happening, Sample, SeriesKey

__all__ = ["IDLE_SECONDS", "MAX_SERIES", "Analyzer", "Dispatch", "Watch"]

SOURCE = attrgetter("role", "rank", "name")  # within a frame, ranks differ where one value is about all of them
Watch = Callable[[Sample], Iterable[Finding]]
Plan = list[tuple[Watch, int]]
MAX_SERIES = 20_000
MAX_PLANS = 4096
IDLE_SECONDS, LOOK_SECONDS = 3600.0, 60.0


class Analyzer(Protocol):
    """Keeps state, but takes time only from what it is given: the same samples give the same findings."""

    def watch(self, first: Sample) -> Watch | None:
        """What observes the series of ``first``, beginning with ``first``; ``None``: it is of no interest."""
        ...

    def observe(self, sample: Sample) -> Iterable[Finding]:
        """Findings whose condition began or ended with this sample; the same as what :meth:`watch` answers does."""
        ...

    def happened(self, event: Happening) -> Iterable[Finding]:
        """Findings whose condition began or ended with this event."""
        ...

    def tick(self, now: float) -> Iterable[Finding]:
        """Findings that follow from the passing of time; ``now`` in Unix seconds."""
        ...

    def forget(self, run: str, boot: str) -> None:
        """Drop the state of a run that is over."""
        ...


class Dispatch:
    """The analyzers as one. At ``limit`` series, launches of runs that have been silent for :data:`IDLE_SECONDS` are
    forgotten and make room; where there are none, new series are not analysed, and counted in ``refused``."""

    def __init__(self, analyzers: Sequence[Analyzer], limit: int = MAX_SERIES) -> None:
        self.analyzers = analyzers
        self.refused = 0
        self._limit = limit
        self._watches: dict[SeriesKey, tuple[Watch | None, ...]] = {}
        self._plans: dict[tuple[object, ...], Plan] = {}
        self._seen: dict[tuple[str, str], float] = {}
        self._look_again_at = 0.0

    def observe(self, samples: Sequence[Sample]) -> list[Finding]:
        """What the samples of one frame, so of one launch of a run, begin or end: analyzer by analyzer, so that one
        that reads several metrics finds them all of the same step, and each runs hot."""
        findings: list[Finding] = []
        if not samples:
            return findings
        first = samples[0]
        shape = (first.run, first.boot, *map(SOURCE, samples))
        plan = self._plans.get(shape)
        if plan is None:
            plan = self._plan(shape, samples)
        for watch, index in plan:
            found = watch(samples[index])
            if found:
                findings += found
        self._seen[first.run, first.boot] = first.time
        return findings

    def happened(self, event: Happening) -> list[Finding]:
        """What an event begins or ends."""
        return [finding for analyzer in self.analyzers for finding in analyzer.happened(event)]

    def tick(self, now: float) -> list[Finding]:
        """What the passing of time begins or ends; once a second."""
        return [finding for analyzer in self.analyzers for finding in analyzer.tick(now)]

    def forget(self, run: str, boot: str) -> None:
        """Drop all state of one launch of a run."""
        self._seen.pop((run, boot), None)
        self._watches = {key: one for key, one in self._watches.items() if key[:2] != (run, boot)}
        self._plans.clear()
        for analyzer in self.analyzers:
            analyzer.forget(run, boot)

    def _make_room(self, now: float) -> None:
        if now < self._look_again_at:
            return
        self._look_again_at = now + LOOK_SECONDS
        for run, boot in [key for key, seen in self._seen.items() if now - seen > IDLE_SECONDS]:
            self.forget(run, boot)

    def _plan(self, shape: tuple[object, ...], samples: Sequence[Sample]) -> Plan:
        """Who is asked about which of the samples, for frames of these metrics of this process."""
        refused = self.refused
        met = [self._meet(sample) for sample in samples]
        places = range(len(self.analyzers))
        plan = [
            (watch, index) for place in places for index, one in enumerate(met) if (watch := one[place]) is not None
        ]
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        if self.refused == refused:  # else there may be room the next time
            self._plans[shape] = plan
        return plan

    def _meet(self, first: Sample) -> tuple[Watch | None, ...]:
        key = first.series
        if key in self._watches:
            return self._watches[key]
        if len(self._watches) >= self._limit:
            self._make_room(first.time)
        if len(self._watches) >= self._limit:
            self.refused += 1
            return (None,) * len(self.analyzers)
        found = self._watches[key] = tuple([one.watch(first) for one in self.analyzers])
        return found
