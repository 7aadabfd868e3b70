"""Simpler ways to find faults, to be judged on the same runs by the same rules."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from detecting.logs import Analyzers
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.families import family_of
from rlhfd_daemon.sample import Happening, Sample, SeriesKey

__all__ = ["BASELINES", "PerSeries", "Strange", "above", "below", "rolling_mad", "zscore"]

Strange = Callable[[float], bool]  # keeps the state of one series; is this next value strange?
QUIET = 5  # ordinary values in a row that end an alert
MIN_VALUES = 10


class PerSeries:
    """An analyzer that alerts while a series is strange. ``of``: a metric's name -> its test, ``None``: not watched."""

    def __init__(self, rule: str, of: Callable[[str], Strange | None]) -> None:
        self._rule = rule
        self._of = of
        self._tests: dict[SeriesKey, Strange | None] = {}
        self._active: dict[SeriesKey, tuple[Finding, int]] = {}

    def watch(self, first: Sample) -> Callable[[Sample], Iterable[Finding]] | None:
        return None if self._of(first.name) is None else self.observe

    def observe(self, sample: Sample) -> Iterable[Finding]:
        key = sample.series
        if key not in self._tests:
            self._tests[key] = self._of(sample.name)
        test = self._tests[key]
        if test is None:
            return ()
        strange = test(sample.value)
        if key not in self._active:
            if not strange:
                return ()
            begun = _finding(self._rule, sample)
            self._active[key] = (begun, 0)
            return (begun,)
        begun, quiet = self._active[key]
        quiet = 0 if strange else quiet + 1
        if quiet < QUIET:
            self._active[key] = (begun, quiet)
            return ()
        del self._active[key]
        return (replace(begun, active=False, step=sample.step, time=sample.time, value=sample.value),)

    def happened(self, event: Happening) -> Iterable[Finding]:
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        self._tests = {key: one for key, one in self._tests.items() if key[:2] != (run, boot)}


def zscore(limit: float = 3.0, window: int = 100, past_only: bool = False) -> Strange:
    """Standard deviations from the mean of the last ``window`` values, the present one among them or not."""
    values: deque[float] = deque(maxlen=window)

    def test(value: float) -> bool:
        if not past_only:
            values.append(value)
        known = list(values)
        if past_only:
            values.append(value)
        if len(known) < MIN_VALUES:
            return False
        # After one NaN both are NaN, and nothing is above the limit, as long as it is among the values.
        mean = sum(known) / len(known)
        scale = math.sqrt(sum([(one - mean) * (one - mean) for one in known]) / len(known))
        return scale > 0 and abs(value - mean) / scale > limit

    return test


def rolling_mad(limit: float = 8.0, window: int = 50, of_last: int = 5, at_least: int = 3) -> Strange:
    """Robust deviations from the median of the ``window`` values before, in several of the last values."""
    values: deque[float] = deque(maxlen=window)
    recent: deque[bool] = deque(maxlen=of_last)

    def test(value: float) -> bool:
        strange = False
        if len(values) >= MIN_VALUES:
            middle = median(values)
            scale = 1.4826 * median([abs(one - middle) for one in values])
            strange = abs(value - middle) > limit * max(scale, 1e-9 * abs(middle))
        if math.isfinite(value):
            values.append(value)
        recent.append(strange)
        return sum(recent) >= at_least

    return test


def above(limit: float) -> Strange:
    """More than ``limit``; NaN is not."""
    return lambda value: value > limit


def below(limit: float) -> Strange:
    """Less than ``limit``; NaN is not."""
    return lambda value: value < limit


# Limits as they stand in tutorials and in other monitors' presets.
THRESHOLDS: Mapping[str, Strange] = {
    "train/kl": above(0.5),
    "train/ppo_kl": above(0.2),
    "train/ppo_clip_ratio": above(0.3),
    "train/actor_grad_norm": above(10.0),
    "train/critic_grad_norm": above(10.0),
    "train/entropy_loss": below(0.1),
    "train/reward": below(-5.0),
    "train/rollout/reward_std": below(0.01),
    "train/advantages_std": below(0.01),
    "train/rollout/truncated_rate": above(0.5),
    "train/critic_loss": above(1.0),
    "train/vllm_kl": above(0.1),
}


def _every(make: Callable[[], Strange]) -> Callable[[str], Strange | None]:
    return lambda _name: make()


def _one(rule: str, of: Callable[[str], Strange | None]) -> Analyzers:
    def analyzers() -> Sequence[PerSeries]:
        return (PerSeries(rule, of),)

    return analyzers


BASELINES: Mapping[str, Analyzers] = {
    "z > 3, last 100 values": _one("z", _every(zscore)),
    "z > 3, the 100 before": _one("z_past", _every(lambda: zscore(past_only=True))),
    "MAD > 8, 50 before, 3 of 5": _one("mad", _every(rolling_mad)),
    "thresholds": _one("thresholds", THRESHOLDS.get),
}


def _finding(rule: str, sample: Sample) -> Finding:
    return Finding(
        run=sample.run,
        boot=sample.boot,
        rule=rule,
        family=family_of(sample.name),
        metric=sample.name,
        severity=Severity.WARNING,
        active=True,
        step=sample.step,
        time=sample.time,
        value=sample.value,
        baseline=None,
        onset_step=sample.step,
        onset_time=sample.time,
        summary=f"{sample.name} is {sample.value:.4g}",
        remedy="",
    )
