"""What rewards are like one by one: missing, late, at a limit, far out, repeated, of a scorer with few values."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median

from rlhfd_daemon.rewards.special import normal_two_sided

__all__ = [
    "Outliers",
    "Repeated",
    "Saturation",
    "Validity",
    "finite",
    "is_graded",
    "new_repeats",
    "outliers",
    "saturation",
    "validity",
]

MAX_LEVELS = 32  # a scorer with at most so many values is a verifier or a rubric: ties are its nature
VALUES_PER_LEVEL = 4
FAR, VERY_FAR = 8.0, 20.0  # robust standard deviations
_MAD, _IQR = 1.4826, 0.7413  # to a standard deviation, if the middle is normal
LEAST_REPEATS = 8
_CHANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Validity:
    """How many of ``count`` samples have no reward, one that is no finite number, a call that failed, or one late."""

    count: int
    missing: int
    failed: int
    nan: int
    infinite: int
    late: int

    @property
    def bad_ratio(self) -> float:
        """The share without a usable reward."""
        return (self.missing + self.nan + self.infinite) / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class Saturation:
    """Shares of the rewards at (or beyond) the lower and upper limit; ``known`` if the limits are a clip range, not
    merely the extremes of these rewards."""

    low: float
    high: float
    low_ratio: float
    high_ratio: float
    known: bool


@dataclass(frozen=True, slots=True)
class Outliers:
    """Rewards that are ``far`` robust deviations and more from the median, and the farthest of them."""

    ratio: float
    value: float
    deviations: float


@dataclass(frozen=True, slots=True)
class Repeated:
    """One value that ``ratio`` of the samples have, and ``before_ratio`` of the reference."""

    value: float
    ratio: float
    before_ratio: float


def validity(
    rewards: Sequence[float | None],
    failed: Sequence[bool] = (),
    latencies: Sequence[float | None] = (),
    deadline_seconds: float | None = None,
) -> Validity:
    """Counts of what is wrong. ``None`` is missing; a call is late that took longer than ``deadline_seconds``."""
    given = [value for value in rewards if value is not None]
    late = 0 if deadline_seconds is None else sum(1 for one in latencies if one is not None and one > deadline_seconds)
    nan = sum(1 for value in given if value != value)
    infinite = sum(1 for value in given if value in (float("inf"), float("-inf")))
    return Validity(len(rewards), len(rewards) - len(given), sum(failed), nan, infinite, late)


def is_graded(values: Sequence[float]) -> bool:
    """Whether these rewards come from few levels (a verifier, a rubric), so that ties mean nothing."""
    return len(set(values)) <= min(MAX_LEVELS, max(2, len(values) // VALUES_PER_LEVEL))


def saturation(values: Sequence[float], clip: tuple[float, float] | None = None) -> Saturation | None:
    """Where rewards pile up. Without a clip range the extremes of the values are taken, unless these are graded: then
    every reward is at one of few levels, and ``None`` is returned. So is for no values."""
    if not values or (clip is None and is_graded(values)):
        return None
    low, high = (min(values), max(values)) if clip is None else clip
    count = len(values)
    # A single value at its own extreme is no pile.
    floor = 1 if clip is None else 0
    lows = sum(1 for value in values if value <= low)
    highs = sum(1 for value in values if value >= high)
    return Saturation(
        low,
        high,
        lows / count if lows > floor else 0.0,
        highs / count if highs > floor else 0.0,
        clip is not None,
    )


def outliers(values: Sequence[float], far: float = FAR) -> Outliers | None:
    """By distance from the median in units of the median absolute deviation (scaled), where that is 0 of the
    interquartile range. ``None`` for graded rewards, fewer than 20 values, or where half of all are equal."""
    if len(values) < 20 or is_graded(values):
        return None
    ordered = sorted(values)
    centre = median(ordered)
    scale = _MAD * median(abs(value - centre) for value in ordered)
    if scale == 0:
        scale = _IQR * (ordered[3 * len(ordered) // 4] - ordered[len(ordered) // 4])
    if scale == 0:
        return None
    worst = max((ordered[0], ordered[-1]), key=lambda value: abs(value - centre))
    beyond = sum(1 for value in ordered if abs(value - centre) >= far * scale)
    return Outliers(beyond / len(ordered), worst, abs(worst - centre) / scale)


def new_repeats(reference: Sequence[float], current: Sequence[float], least_ratio: float = 0.05) -> list[Repeated]:
    """Values that many samples share now and did not before: a constant for errors, a cache, a default.

    A value counts that at least ``least_ratio`` have, more than in the reference beyond chance (1e-6), and at least
    four times as often as there: so the ties of a verifier count for nothing. What a coarse number format explains, its
    neighbours have as well: of continuous rewards it must be four times as often as the ten distinct values round it
    in the mean. Of graded ones, and where half of the reference and more are ties, it must be new, and below the best
    so far: a better best is learning, and so is a level that is reached more often.
    """
    if not reference or not current:
        return []
    before, now = Counter(reference), Counter(current)
    n, m = len(reference), len(current)
    levels, graded, best = sorted(now), is_graded(reference) or 2 * len(before) <= n, max(reference)
    found = []
    for value, count in now.most_common(len(levels)):
        ratio, old = count / m, before[value] / n
        if count < LEAST_REPEATS or ratio < least_ratio:
            break
        common = (count + before[value]) / (n + m)
        error = (common * (1 - common) * (1 / n + 1 / m)) ** 0.5
        sure = error > 0 and ratio > old and normal_two_sided((ratio - old) / error) < _CHANCE
        alone = value < best and not old if graded else count >= 4 * _round(value, levels, now)
        if sure and ratio >= 4 * old and alone:
            found.append(Repeated(value, ratio, old))
    return found


def _round(value: float, levels: Sequence[float], counts: Counter[float]) -> float:
    at = bisect_left(levels, value)
    near = [one for one in levels[max(0, at - 5) : at + 6] if one != value]
    return sum(counts[one] for one in near) / len(near) if near else 0.0


def finite(values: Sequence[float | None]) -> list[float]:
    """Those that are finite numbers."""
    return [value for value in values if value is not None and isfinite(value)]
