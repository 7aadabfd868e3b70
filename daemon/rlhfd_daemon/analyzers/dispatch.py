"""Which analyzers watch which series: asked once per series, so that a sample costs only those that it concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from rlhfd_alerts.finding import Finding
from rlhfd_daemon.sample import Happening, Sample

__all__ = ["IDLE_SECONDS", "MAX_SERIES", "Analyzer", "Dispatch", "Watch"]

Watch = Callable[[Sample], Iterable[Finding]]
Source = tuple[str, str, str, "int | None"]
MAX_SERIES = 20_000
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
        self._watches: dict[Source, dict[str, tuple[Watch, ...]]] = {}
        self._count = 0
        self._seen: dict[tuple[str, str], float] = {}
        self._look_again_at = 0.0

    def observe(self, samples: Sequence[Sample]) -> list[Finding]:
        """What the samples of one frame begin or end."""
        findings: list[Finding] = []
        run = boot = role = rank = object()
        watches: dict[str, tuple[Watch, ...]] = {}
        for sample in samples:
            if sample.role is not role or sample.rank != rank or sample.run is not run or sample.boot is not boot:
                run, boot, role, rank = source = (sample.run, sample.boot, sample.role, sample.rank)
                watches = self._watches.get(source, {})
            watching = watches.get(sample.name)
            if watching is None:
                watching = self._meet(sample)
                watches = self._watches.get(source, {})
            for watch in watching:
                found = watch(sample)
                if found:
                    findings += found
        if samples:
            self._seen[samples[-1].run, samples[-1].boot] = samples[-1].time
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
        self._watches = {source: one for source, one in self._watches.items() if source[:2] != (run, boot)}
        self._count = sum(map(len, self._watches.values()))
        for analyzer in self.analyzers:
            analyzer.forget(run, boot)

    def _make_room(self, now: float) -> None:
        if now < self._look_again_at:
            return
        self._look_again_at = now + LOOK_SECONDS
        for run, boot in [key for key, seen in self._seen.items() if now - seen > IDLE_SECONDS]:
            self.forget(run, boot)

    def _meet(self, first: Sample) -> tuple[Watch, ...]:
        if self._count >= self._limit:
            self._make_room(first.time)
        if self._count >= self._limit:
            self.refused += 1
            return ()
        found = tuple([watch for watch in (one.watch(first) for one in self.analyzers) if watch is not None])
        self._watches.setdefault((first.run, first.boot, first.role, first.rank), {})[first.name] = found
        self._count += 1
        return found
