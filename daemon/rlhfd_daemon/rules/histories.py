"""The last values of one series, shared by all clauses that read it, and the numbers that are made of them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from math import inf, sqrt

from rlhfd_daemon.rules.rule import Aggregate

__all__ = ["AGGREGATES", "BASELINE", "BASELINE_LEAST", "EVIDENCE", "FIRST", "Drawdown", "History"]

BASELINE, BASELINE_LEAST, FIRST = 50, 20, 20
EVIDENCE = 16
STALE = 20  # a baseline is good for so many values


class History:
    """Finite values, oldest first, at least the last ``keep``; bounded. ``count``: how many have come."""

    __slots__ = ("_baselines", "_due", "_keep", "_limit", "count", "drawdowns", "first",
                 "first_absolute", "is_finite", "record", "steps", "values")  # fmt: skip

    def __init__(self, keep: int, drawdowns: Sequence[Drawdown] = ()) -> None:
        self._keep = max(keep, EVIDENCE)
        self._limit = 2 * self._keep
        self.drawdowns = tuple(drawdowns)
        self.record = -1  # of the newest sample
        self.clear()

    def clear(self) -> None:
        """Begin anew: what has come says nothing about what comes."""
        self.values = array("d")
        self.steps: list[int | None] = []
        self.count = 0
        self.is_finite = False  # whether the newest value is
        self.first: float | None = None  # the median of the first values, once they are there
        self.first_absolute: float | None = None
        self._due = FIRST  # the count at which there is more to do than to add
        self._baselines: dict[tuple[int, bool], tuple[int, float]] = {}
        for one in self.drawdowns:
            one.clear()

    def add(self, step: int | None, value: float) -> None:
        """Take up the next finite value."""
        self.values.append(value)
        self.steps.append(step)
        self.count = count = self.count + 1
        self.is_finite = True
        if count >= self._due:
            self._settle()
        if self.drawdowns:
            for one in self.drawdowns:
                one.add(self.values)

    def baseline(self, over: int, is_absolute: bool) -> float | None:
        """The median of the values before the last ``over``, as it was up to 20 values ago; ``None`` while there are
        too few."""
        known = self._baselines.get((over, is_absolute))
        if known is not None and self.count < known[0]:
            return known[1]
        if len(self.values) < over + BASELINE_LEAST:
            return None
        before = self.values[: len(self.values) - over][-BASELINE:]
        found = _median([abs(value) for value in before] if is_absolute else before)
        self._baselines[over, is_absolute] = (self.count + STALE, found)
        return found

    def baseline_until(self, over: int, is_absolute: bool) -> int:
        """The count of values at which the baseline is made anew."""
        return self._baselines[over, is_absolute][0]

    def evidence(self) -> tuple[tuple[int | None, float], ...]:
        """The last values with their steps."""
        return tuple(zip(self.steps[-EVIDENCE:], self.values[-EVIDENCE:], strict=True))

    @property
    def step(self) -> int | None:
        """The step of the newest value."""
        return self.steps[-1] if self.steps else None

    def _settle(self) -> None:
        if self.count == FIRST:
            self.first, self.first_absolute = _median(self.values), _median([abs(one) for one in self.values])
        if len(self.values) >= self._limit:
            del self.values[: -self._keep], self.steps[: -self._keep]
        self._due = self.count + self._limit - len(self.values)


class Drawdown:
    """How far the mean of the last ``over`` values has fallen from the best such mean, as a share of their range."""

    __slots__ = ("_best", "_worst", "is_absolute", "over", "value")

    def __init__(self, over: int, is_absolute: bool) -> None:
        self.over = over
        self.is_absolute = is_absolute
        self.clear()

    def clear(self) -> None:
        self._best, self._worst = -inf, inf
        self.value: float | None = None

    def add(self, values: Sequence[float]) -> None:
        if len(values) < self.over:
            return
        last = values[-self.over :]
        now = sum(map(abs, last) if self.is_absolute else last) / self.over
        self._best, self._worst = max(self._best, now), min(self._worst, now)
        spread = self._best - self._worst
        self.value = (self._best - now) / spread if 0 < spread < inf else None


def _median(values: Sequence[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _mean(values: Sequence[float], _steps: Sequence[int | None]) -> float:
    return sum(values) / len(values)


def _std(values: Sequence[float], _steps: Sequence[int | None]) -> float:
    mean = sum(values) / len(values)
    return sqrt(sum([(value - mean) * (value - mean) for value in values]) / len(values))


def _slope(values: Sequence[float], steps: Sequence[int | None]) -> float | None:
    """Least squares over the steps, or over 0, 1, 2, ... where there are none."""
    known = [step for step in steps if step is not None]
    places = (
        [float(step - known[0]) for step in known]
        if len(known) == len(values)
        else list(map(float, range(len(values))))
    )
    centre, mean = sum(places) / len(places), sum(values) / len(values)
    width = sum([(place - centre) * (place - centre) for place in places])
    if width == 0:
        return None
    return sum([(place - centre) * (value - mean) for place, value in zip(places, values, strict=True)]) / width


Statistic = Callable[[Sequence[float], Sequence["int | None"]], "float | None"]
AGGREGATES: dict[Aggregate, Statistic] = {
    "mean": _mean,
    "median": lambda values, _steps: _median(values),
    "min": lambda values, _steps: min(values),
    "max": lambda values, _steps: max(values),
    "std": _std,
    "slope": _slope,
}
