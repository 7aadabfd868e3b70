"""Which analyzers watch which series: asked once per series, so that a sample costs only those that it concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from rlhfd_alerts.finding import Finding
from rlhfd_daemon.sample import Happening, Sample, SeriesKey

__all__ = ["IDLE_SECONDS", "MAX_SERIES", "Analyzer", "Dispatch", "Watch"]

Watch = Callable[[Sample], Iterable[Finding]]
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
        self._watches: dict[SeriesKey, tuple[Watch, ...]] = {}
        self._seen: dict[tuple[str, str], float] = {}
        self._look_again_at = 0.0

    def observe(self, samples: Iterable[Sample]) -> list[Finding]:
        """What the samples of one frame begin or end."""
        findings: list[Finding] = []
        watches = self._watches
        sample: Sample | None = None
        for sample in samples:
            key = (sample.run, sample.boot, sample.role, sample.rank, sample.name)
            watching = watches.get(key)
            if watching is None:
                watching = self._meet(key, sample)
                watches = self._watches
            for watch in watching:
                found = watch(sample)
                if found:
                    findings += found
        if sample is not None:
            self._seen[sample.run, sample.boot] = sample.time
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
        for analyzer in self.analyzers:
            analyzer.forget(run, boot)

    def _make_room(self, now: float) -> None:
        if now < self._look_again_at:
            return
        self._look_again_at = now + LOOK_SECONDS
        for run, boot in [key for key, seen in self._seen.items() if now - seen > IDLE_SECONDS]:
            self.forget(run, boot)

    def _meet(self, key: SeriesKey, first: Sample) -> tuple[Watch, ...]:
        if len(self._watches) >= self._limit:
            self._make_room(first.time)
        if len(self._watches) >= self._limit:
            self.refused += 1
            return ()
        found = tuple([watch for watch in (one.watch(first) for one in self.analyzers) if watch is not None])
        self._watches[key] = found
        return found
