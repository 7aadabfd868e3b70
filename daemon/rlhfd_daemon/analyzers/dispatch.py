"""Which analyzers watch which series: asked once per series, so that a sample costs only those that it concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from rlhfd_alerts.finding import Finding
from rlhfd_daemon.sample import Happening, Sample, SeriesKey

__all__ = ["IDLE_SECONDS", "MAX_SERIES", "Analyzer", "Dispatch", "Watch"]

Watch = Callable[[Sample], Iterable[Finding]]
MAX_SERIES = 50_000
IDLE_SECONDS = 3600.0


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
    """The analyzers as one. Past ``limit`` series new ones are not analysed, and counted in ``refused``; a launch of a
    run that has been silent for :data:`IDLE_SECONDS` is forgotten and makes room."""

    def __init__(self, analyzers: Sequence[Analyzer], limit: int = MAX_SERIES) -> None:
        self.analyzers = analyzers
        self.refused = 0
        self._limit = limit
        self._watches: dict[SeriesKey, tuple[Watch, ...]] = {}
        self._seen: dict[tuple[str, str], float] = {}

    def observe(self, samples: Iterable[Sample]) -> list[Finding]:
        """What the samples of one frame begin or end."""
        findings: list[Finding] = []
        watches = self._watches
        for sample in samples:
            key = (sample.run, sample.boot, sample.role, sample.rank, sample.name)
            watching = watches.get(key)
            if watching is None:
                watching = self._meet(key, sample)
            for watch in watching:
                found = watch(sample)
                if found:
                    findings += found
        return findings

    def happened(self, event: Happening) -> list[Finding]:
        """What an event begins or ends."""
        self._seen[event.run, event.boot] = event.time
        return [finding for analyzer in self.analyzers for finding in analyzer.happened(event)]

    def tick(self, now: float) -> list[Finding]:
        """What the passing of time begins or ends; once a second."""
        for run, boot in [key for key, seen in self._seen.items() if now - seen > IDLE_SECONDS]:
            self.forget(run, boot)
        return [finding for analyzer in self.analyzers for finding in analyzer.tick(now)]

    def seen(self, run: str, boot: str, now: float) -> None:
        """A frame of this launch of a run has come."""
        self._seen[run, boot] = now

    def forget(self, run: str, boot: str) -> None:
        """Drop all state of one launch of a run."""
        self._seen.pop((run, boot), None)
        self._watches = {key: one for key, one in self._watches.items() if key[:2] != (run, boot)}
        for analyzer in self.analyzers:
            analyzer.forget(run, boot)

    def _meet(self, key: SeriesKey, first: Sample) -> tuple[Watch, ...]:
        if len(self._watches) >= self._limit:
            self.refused += 1
            return ()
        found = tuple([watch for watch in (one.watch(first) for one in self.analyzers) if watch is not None])
        self._watches[key] = found
        return found
