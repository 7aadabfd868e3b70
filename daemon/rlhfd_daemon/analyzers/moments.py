"""Count, mean, spread, extremes and least-squares line of values by step; those of two stretches add up. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from operator import mul, sub
from typing import Literal

__all__ = ["Axis", "Direction", "Moments"]

Direction = Literal["increasing", "decreasing", "stable"]
SIGNIFICANT = 3.3  # standard errors: one in a thousand by chance
LEAST = 8  # values
MAX_ALIKE = 0.98


class Axis:
    """The steps at which values came. Metrics that come together share one."""

    __slots__ = ("high", "low", "mean", "steps", "x", "xx")

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = steps
        self.low, self.high = min(steps, default=0), max(steps, default=0)
        self.mean = sum(steps) / max(1, len(steps))
        self.x = [step - self.mean for step in steps]
        self.xx = sum(map(mul, self.x, self.x))


@dataclass(frozen=True, slots=True)
class Moments:
    """``xx``, ``xy`` and ``yy`` are sums of products of deviations from the means of step (x) and value (y). ``rises``
    is the sum of the squared changes from one value to the next, ``echoes`` of the products of each with the one before
    it; ``first_rise`` and ``last_rise`` are the changes at either end."""

    count: int
    first_step: int
    last_step: int
    first: float
    last: float
    low: float
    high: float
    mean_step: float
    mean: float
    xx: float
    xy: float
    yy: float
    rises: float
    echoes: float
    first_rise: float
    last_rise: float

    @staticmethod
    def of(axis: Axis, values: Sequence[float]) -> Moments | None:
        """Those of the finite ones of ``values`` at the steps of ``axis``, in the order in which they came."""
        if not isfinite(sum(values)):
            pairs = [(step, value) for step, value in zip(axis.steps, values, strict=True) if isfinite(value)]
            if len(pairs) < len(values):
                axis, values = Axis([step for step, _ in pairs]), [value for _, value in pairs]
        count = len(values)
        if not count:
            return None
        mean = sum(values) / count
        y, rises = [value - mean for value in values], list(map(sub, values[1:], values))
        return Moments(
            count=count,
            first_step=axis.low,
            last_step=axis.high,
            first=values[0],
            last=values[-1],
            low=min(values),
            high=max(values),
            mean_step=axis.mean,
            mean=mean,
            xx=axis.xx,
            xy=sum(map(mul, axis.x, y)),
            yy=sum(map(mul, y, y)),
            rises=float(sum(map(mul, rises, rises))),
            echoes=float(sum(map(mul, rises[1:], rises))),
            first_rise=rises[0] if rises else 0.0,
            last_rise=rises[-1] if rises else 0.0,
        )

    def __add__(self, later: Moments) -> Moments:
        """Those of both, ``later`` coming after this one (Chan, Golub and LeVeque 1979)."""
        count = self.count + later.count
        dx, dy = later.mean_step - self.mean_step, later.mean - self.mean
        weight = self.count * later.count / count
        gap = later.first - self.last
        return Moments(
            count=count,
            first_step=min(self.first_step, later.first_step),
            last_step=max(self.last_step, later.last_step),
            first=self.first,
            last=later.last,
            low=min(self.low, later.low),
            high=max(self.high, later.high),
            mean_step=self.mean_step + dx * later.count / count,
            mean=self.mean + dy * later.count / count,
            xx=self.xx + later.xx + dx * dx * weight,
            xy=self.xy + later.xy + dx * dy * weight,
            yy=self.yy + later.yy + dy * dy * weight,
            rises=self.rises + later.rises + gap * gap,
            echoes=self.echoes + later.echoes + self.last_rise * gap + gap * later.first_rise,
            first_rise=self.first_rise if self.count > 1 else gap,
            last_rise=later.last_rise if later.count > 1 else gap,
        )

    @property
    def std(self) -> float:
        """The standard deviation of the values as such, not an estimate of anything."""
        return sqrt(max(0.0, self.yy) / self.count) if self.yy == self.yy else self.yy

    @property
    def slope(self) -> float:
        """The change per step; 0 where there is one step only."""
        return self.xy / self.xx if self.xx > 0 else 0.0

    @property
    def direction(self) -> Direction:
        """Whether the slope is more than chance.

        How large the noise is and how alike its neighbours are (which makes a line through it look sure of itself)
        is read off the changes from one value to the next, since a curve that is smooth does not show in them: for
        noise that keeps the share r of each value, their variance is 2(1-r) times its own, and the correlation of
        each change with the next is (r-1)/2. The share is taken one standard error too high.
        """
        slope, count = self.slope, self.count
        if count < LEAST or slope == 0 or not isfinite(slope) or not isfinite(self.rises + self.yy):
            return "stable"
        sign: Direction = "increasing" if slope > 0 else "decreasing"
        whole = self.last - self.first
        if whole * slope > 0 and abs(whole) > SIGNIFICANT * sqrt(self.rises):
            return sign  # further than a random walk of such changes gets, as on a curve almost without noise
        drift = whole / (count - 1)
        variance = self.rises / (count - 1) - drift * drift
        echo = (self.echoes / (count - 2) - drift * drift) / variance if variance > 0 else 0.0
        alike = min(max(0.0, 1 + 2 * echo + 2 / sqrt(count)), MAX_ALIKE)
        error = sqrt(max(0.0, variance) / (2 * (1 - alike)) / self.xx * (1 + alike) / (1 - alike))
        return sign if abs(slope) > SIGNIFICANT * error else "stable"
