"""The scale on which the noise of a series is even, its values or about their logarithm; the range it has covered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import asinh, hypot, sinh

from rlhfd_daemon.analyzers.baseline import middle
from rlhfd_daemon.analyzers.profiles import Profile

__all__ = ["Covered", "Scale"]

MIN_RELATIVE_SIGMA = 0.01
UNIT_SHARE = 0.05  # of the first values: where the logarithm of a metric gives way to its value
TINY, HUGE, LOST = 1e-12, 700.0, 1e-6


class Scale:
    """For a profile with ``log`` the inverse hyperbolic sine: a logarithm of large values, and about linear for those
    below ``unit``, so that 0 and negative values have a place."""

    __slots__ = ("_profile", "unit")

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self.unit = 0.0

    def learn(self, first: Sequence[float]) -> None:
        """Take the unit from the first values."""
        self.unit = max(UNIT_SHARE * middle([abs(value) for value in first]), self._profile.floor, TINY)

    def is_lost(self, level: float) -> bool:
        """Whether values have become so much smaller than the first that they are all 0 on this scale."""
        return self._profile.log and 0 < abs(level) < LOST

    def anew(self, values: Iterable[float]) -> list[float]:
        """Take the unit from these values of this scale; the same values on the new one."""
        first = [self.back(y) for y in values]
        self.learn(first)
        return [self.forth(value) for value in first]

    def forth(self, value: float) -> float:
        """From the metric's unit to the scale."""
        return asinh(value / self.unit) if self._profile.log else value

    def back(self, y: float) -> float:
        """From the scale to the metric's unit."""
        return self.unit * sinh(min(max(y, -HUGE), HUGE)) if self._profile.log else y

    def least(self, level: float) -> float:
        """The least standard deviation at ``level``, both on the scale."""
        if not self._profile.log:
            return max(MIN_RELATIVE_SIGMA * abs(level), self._profile.floor, TINY)
        return max(MIN_RELATIVE_SIGMA, self._profile.floor / hypot(self.back(level), self.unit))


class Covered:
    """The range that a series has covered, in the metric's unit."""

    __slots__ = ("_high", "_low")

    def __init__(self) -> None:
        self._low, self._high = float("inf"), float("-inf")

    def width(self) -> float:
        """From the least to the greatest."""
        return self._high - self._low

    def add(self, value: float) -> None:
        """It has been there, too."""
        self._high = value if value > self._high else self._high
        self._low = value if value < self._low else self._low

    def anew(self, values: Iterable[float]) -> None:
        """That of ``values`` alone, of which the outermost may be anything."""
        ordered = sorted(values)
        tail = len(ordered) // 6
        self._low, self._high = ordered[tail], ordered[-1 - tail]
