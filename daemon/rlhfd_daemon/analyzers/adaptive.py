"""Metrics that leave their own course: a level, a trend, repeated spikes, or a spread that was not there before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from math import isfinite

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.changes import Change, Drift
from rlhfd_daemon.analyzers.dispatch import Watch
from rlhfd_daemon.analyzers.families import family_of
from rlhfd_daemon.analyzers.profiles import Profile, profile_of
from rlhfd_daemon.analyzers.remedies import remedy
from rlhfd_daemon.analyzers.series import MAX_SERIES, Evidence, at_step, labels
from rlhfd_daemon.analyzers.track import Track
from rlhfd_daemon.config_analyzers import AdaptiveConfig
from rlhfd_daemon.sample import Happening, Sample, SeriesKey

__all__ = ["RULES", "Adaptive"]

RULES = ("level_change", "trend_change", "spikes", "spread_change")
LATE_STEPS = 3  # a sample so many steps behind is late; one further back is of a run that was resumed


class _Series:
    """One series. After a resume from an earlier step it is learnt anew."""

    __slots__ = ("_active", "_evidence", "_last_step", "_profile", "_track")

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._clear()

    def _clear(self) -> None:
        self._track = Track(self._profile)
        self._evidence = Evidence()
        self._last_step: int | None = None
        self._active: Finding | None = None

    def observe(self, sample: Sample) -> Iterable[Finding]:
        step, value, last = sample.step, sample.value, self._last_step
        if step is not None:
            if last is not None and step <= last:
                return () if step > last - LATE_STEPS else self._resumed(sample)
            self._last_step = step
        self._evidence.add(sample)
        if not isfinite(value):
            return ()
        change = self._track.take(value)
        return () if change is None else self._changed(sample, change)

    def is_due(self) -> bool:
        return self._track.is_due()

    def drift(self, is_up: bool) -> Drift:
        return self._track.drift(is_up)

    def _resumed(self, sample: Sample) -> Iterable[Finding]:
        """The run went back to ``sample.step``: what was expected of it no longer holds."""
        ended = self._active
        self._clear()
        self.observe(sample)
        if ended is None:
            return ()
        return (_ended(ended, sample, f"the run went back to step {sample.step}; {sample.name} is learnt anew"),)

    def _changed(self, sample: Sample, change: Change) -> Iterable[Finding]:
        ended, self._active = self._active, None
        if not change.is_active:
            now = f"{sample.name} is {change.recent:.4g} {at_step(sample.step)}"
            text = f"{now}: its new level" if change.new_level else f"{now}, back on its course"
            return () if ended is None else (_ended(ended, sample, text),)
        severity = self._profile.severity_up if change.is_up else self._profile.severity_down
        if change.kind == "spread_change":
            severity = Severity.INFO
        onset = self._evidence.step_of(change.since)
        self._active = begun = _begun(sample, change, severity, onset, self._evidence)
        return (begun,) if ended is None else (_ended(ended, sample, "something else has taken its place"), begun)


class Adaptive:
    """One :class:`Track` per series of a metric that :func:`profile_of` knows how to watch. A step that comes twice
    counts once."""

    def __init__(self, config: AdaptiveConfig) -> None:
        self._config = config
        self._series: dict[SeriesKey, _Series | None] = {}
        self.refused = 0

    def watch(self, first: Sample) -> Watch | None:
        series = self._of(first)
        return None if series is None else series.observe

    def observe(self, sample: Sample) -> Iterable[Finding]:
        series = self._of(sample)
        return () if series is None else series.observe(sample)

    def drift(self, of: Sample, metric: str, is_up: bool) -> Drift | None:
        """How ``metric`` of the process that sent ``of`` has moved lately; ``None`` if it is not watched."""
        series = self._series.get((of.run, of.boot, of.role, of.rank, metric))
        return None if series is None else series.drift(is_up)

    def watches(self, of: Sample, metric: str) -> bool:
        """Whether ``metric`` of the process that sent ``of`` has come and is watched."""
        return self._series.get((of.run, of.boot, of.role, of.rank, metric)) is not None

    def due(self, first: Sample) -> Callable[[], bool] | None:
        """Tells when :meth:`drift` of this series is worth asking; ``None`` if it is not watched."""
        series = self._of(first)
        return None if series is None else series.is_due

    def happened(self, event: Happening) -> Iterable[Finding]:
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        self._series = {key: one for key, one in self._series.items() if key[:2] != (run, boot)}

    def _of(self, sample: Sample) -> _Series | None:
        key = sample.series
        if key in self._series:
            return self._series[key]
        if len(self._series) >= MAX_SERIES:
            self.refused += 1
            return None
        profile = None if self._is_ignored(sample.name) else profile_of(sample.name)
        series = self._series[key] = None if profile is None else _Series(profile)
        return series

    def _is_ignored(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._config.ignore)


def _begun(sample: Sample, change: Change, severity: Severity, onset: int | None, evidence: Evidence) -> Finding:
    return Finding(
        run=sample.run,
        boot=sample.boot,
        rule=change.kind,
        family=family_of(sample.name),
        metric=sample.name,
        severity=severity,
        active=True,
        step=sample.step,
        time=sample.time,
        value=sample.value,
        baseline=change.expected,
        onset_step=onset,
        onset_time=sample.time,
        summary=_summary(sample, change, onset),
        remedy=remedy(sample.name),
        evidence=evidence.values(),
        labels=labels(sample),
    )


def _ended(begun: Finding, sample: Sample, text: str) -> Finding:
    return replace(begun, active=False, step=sample.step, time=sample.time, value=sample.value, summary=text)


def _summary(sample: Sample, change: Change, onset: int | None) -> str:
    since = "" if onset is None else f" since step {onset}"
    expected = f"{change.expected:.4g} ± {change.scale:.2g} was to be expected"
    if change.kind == "spikes":
        return f"{sample.name} spikes again and again: {sample.value:.4g} {at_step(sample.step)}, {expected}{since}"
    if change.kind == "spread_change":
        return f"{sample.name} scatters far more than before: {sample.value:.4g} {at_step(sample.step)}, {expected}"
    verb = ("rises to" if change.is_up else "falls to") if change.kind == "trend_change" else "is"
    return f"{sample.name} {verb} {change.recent:.4g} {at_step(sample.step)}{since}, where {expected}"
