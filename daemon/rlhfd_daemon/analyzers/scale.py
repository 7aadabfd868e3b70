"""The scale on which the noise of a series is even: its values, or about their logarithm."""

from __future__ import annotations

from collections.abc import Sequence
from math import asinh, hypot, sinh

from rlhfd_daemon.analyzers.baseline import middle
from rlhfd_daemon.analyzers.profiles import Profile

__all__ = ["Scale"]

MIN_RELATIVE_SIGMA = 0.01
UNIT_SHARE = 0.05  # of the first values: where the logarithm of a metric gives way to its value
TINY, HUGE = 1e-12, 700.0


class Scale:
    """For a profile with ``log`` the inverse hyperbolic sine: a logarithm of large values, and about linear for those
    below ``unit``, so that 0 and negative values have a place."""

    __slots__ = ("_profile", "unit")

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self.unit = 0.0

    def learn(self, first: Sequence[float]) -> None:
        """Take the unit from the first values, once."""
        if not self.unit:
            self.unit = max(UNIT_SHARE * middle([abs(value) for value in first]), self._profile.floor, TINY)

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
