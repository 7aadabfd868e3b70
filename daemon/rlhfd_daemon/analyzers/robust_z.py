"""A metric that leaves its own recent level: robust z-score against the past window, never including the present."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from statistics import median

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.families import family_of
from rlhfd_daemon.analyzers.remedies import remedy
from rlhfd_daemon.analyzers.series import Evidence, SeriesTable, at_step, labels
from rlhfd_daemon.config import RobustZConfig
from rlhfd_daemon.sample import Happening, Sample

RULE = "robust_z"
MAD_TO_SIGMA = 1.4826  # for a normal distribution (Rousseeuw and Croux 1993)
WIDE_SIGMAS = 1.645  # 90 % of a normal distribution lie within
EXCURSION_SIGMAS = 3.0
MIN_RELATIVE_SCALE = 1e-3
ROUNDING = 1e-9


def level_and_scale(history: Sequence[float]) -> tuple[float, float]:
    """Median and a robust standard deviation of ``history``; scale 0 if it never moved.

    The larger of two estimates: by the median absolute deviation, and by its 90th percentile, which still moves for
    a ratio that is 0 nearly half of the time. Where nearly all values are equal both are 0; then the largest
    excursion of the window counts as three standard deviations.
    """
    level = median(history)
    deviations = sorted([abs(value - level) for value in history])
    mad, wide = median(deviations), deviations[len(deviations) * 9 // 10]
    scale = max(MAD_TO_SIGMA * mad, wide / WIDE_SIGMAS) or deviations[-1] / EXCURSION_SIGMAS
    return level, max(scale, MIN_RELATIVE_SCALE * abs(level)) if scale > 0 else 0.0


class Window:
    """The last ``size`` values, also in order of size."""

    __slots__ = ("_ordered", "_values")

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._ordered: list[float] = []

    def __len__(self) -> int:
        return len(self._ordered)

    def add(self, value: float) -> None:
        """Take in a finite value; the oldest goes when the window is full."""
        if len(self._values) == self._values.maxlen:
            del self._ordered[bisect_left(self._ordered, self._values[0])]
        self._values.append(value)
        insort(self._ordered, value)

    @property
    def level(self) -> float:
        """The median."""
        return median(self._ordered)

    def level_and_scale(self) -> tuple[float, float]:
        """See :func:`level_and_scale`."""
        return level_and_scale(self._ordered)

    def is_central(self, value: float) -> bool:
        """True if so many values of the window lie further out on either side that ``value`` is within the 90th
        percentile of the deviations, whatever they are: then its z is at most :data:`WIDE_SIGMAS`."""
        beyond = len(self._ordered) - len(self._ordered) * 9 // 10 - 1
        return self._ordered[beyond] <= value <= self._ordered[-1 - beyond]

    def is_near(self, value: float, sigmas: float) -> bool:
        """True if half of the window lies so far from the median that the median absolute deviation alone puts
        ``value`` within ``sigmas``; two searches instead of all deviations. False says nothing."""
        ordered, middle = self._ordered, len(self._ordered) // 2
        level = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        reach = abs(value - level) / (sigmas * MAD_TO_SIGMA) * (1 + ROUNDING)
        closer = bisect_left(ordered, level + reach) - bisect_right(ordered, level - reach)
        return 2 * closer < len(ordered)


class _State:
    __slots__ = ("active", "calm", "evidence", "history", "level", "onset", "outside", "side")

    def __init__(self, window: int) -> None:
        self.history = Window(window)
        self.evidence = Evidence()
        self.outside: list[float] = []
        self.side = 0
        self.calm = 0
        self.active = False
        self.level = 0.0
        self.onset: Sample | None = None


class RobustZ:
    """Begins when ``consecutive`` values in a row lie beyond ``threshold`` robust standard deviations on the same
    side. Values outside do not enter the window; the finding ends after ``consecutive`` values inside, or when
    a whole window of values outside has become the new level."""

    def __init__(self, config: RobustZConfig) -> None:
        self._config = config
        self._series: SeriesTable[_State] = SeriesTable(lambda: _State(config.window))
        self._ignored = lru_cache(maxsize=4096)(self._is_ignored)

    def observe(self, sample: Sample) -> Iterable[Finding]:
        if self._ignored(sample.name) or not math.isfinite(sample.value):
            return ()
        state = self._series.get(sample)
        if state is None:
            return ()
        state.evidence.add(sample)
        if len(state.history) < self._config.min_history:
            state.history.add(sample.value)
            return ()
        threshold, history = self._config.threshold, state.history
        if (threshold >= WIDE_SIGMAS and history.is_central(sample.value)) or history.is_near(sample.value, threshold):
            return self._inside(state, sample)
        level, scale = state.history.level_and_scale()
        z = (sample.value - level) / scale if scale > 0 else 0.0
        if abs(z) > self._config.threshold:
            return self._outside(state, sample, level, scale, z)
        return self._inside(state, sample)

    def happened(self, event: Happening) -> Iterable[Finding]:
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        self._series.forget(run, boot)

    def _outside(self, state: _State, sample: Sample, level: float, scale: float, z: float) -> Iterable[Finding]:
        side = 1 if z > 0 else -1
        if side != state.side:
            state.side, state.onset, state.outside = side, sample, []
        state.calm = 0
        state.outside.append(sample.value)
        if state.active and len(state.outside) >= self._config.window:
            return self._accept_new_level(state, sample)
        if state.active or len(state.outside) < self._config.consecutive:
            return ()
        state.active, state.level = True, level
        onset = None if state.onset is None else state.onset.step
        since = "" if onset is None else f" since step {onset}"
        text = (
            f"{sample.name} is {sample.value:.4g} {at_step(sample.step)}, outside its level of {level:.4g} ± "
            f"{scale:.2g} over the last {len(state.history)} values{since} (robust z {z:+.1f})"
        )
        return (self._finding(state, sample, text),)

    def _accept_new_level(self, state: _State, sample: Sample) -> Iterable[Finding]:
        for value in state.outside:
            state.history.add(value)
        state.outside, state.side, state.active = [], 0, False
        text = f"{sample.name} has stayed at its new level for {self._config.window} values, which is now the baseline"
        return (self._finding(state, sample, text),)

    def _inside(self, state: _State, sample: Sample) -> Iterable[Finding]:
        level = state.history.level if state.active else 0.0
        state.history.add(sample.value)
        state.outside, state.side = [], 0
        state.calm += 1
        if not state.active or state.calm < self._config.consecutive:
            return ()
        state.active = False
        text = f"{sample.name} is back at {sample.value:.4g} {at_step(sample.step)}, level {level:.4g}"
        return (self._finding(state, sample, text),)

    def _is_ignored(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._config.ignore)

    def _finding(self, state: _State, sample: Sample, summary: str) -> Finding:
        onset = state.onset or sample
        return Finding(
            run=sample.run,
            boot=sample.boot,
            rule=RULE,
            family=family_of(sample.name),
            metric=sample.name,
            severity=Severity.WARNING,
            active=state.active,
            step=sample.step,
            time=sample.time,
            value=sample.value,
            baseline=state.level,
            onset_step=onset.step,
            onset_time=onset.time,
            summary=summary,
            remedy=remedy(sample.name),
            evidence=state.evidence.values(),
            labels=labels(sample),
        )
