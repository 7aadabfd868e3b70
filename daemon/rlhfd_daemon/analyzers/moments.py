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
LEAST_INDEPENDENT = 4.0
MAX_CORRELATION = 0.98


class Axis:
    """The steps at which values came. Metrics that come together share one."""

    __slots__ = ("dx", "dxx", "high", "low", "mean", "steps", "x", "xx")

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = steps
        self.low, self.high = min(steps, default=0), max(steps, default=0)
        self.mean = sum(steps) / max(1, len(steps))
        self.x = [step - self.mean for step in steps]
        self.xx = sum(map(mul, self.x, self.x))
        self.dx = list(map(sub, steps[1:], steps))
        self.dxx = float(sum(map(mul, self.dx, self.dx)))


@dataclass(frozen=True, slots=True)
class Moments:
    """``xx``, ``xy`` and ``yy`` are sums of products of deviations from the means of step (x) and value (y); ``dxx``,
    ``dxy`` and ``dyy`` the same of the differences from one value to the next, which tell how alike neighbours are."""

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
    dxx: float
    dxy: float
    dyy: float

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
        y, dy = [value - mean for value in values], list(map(sub, values[1:], values))
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
            dxx=axis.dxx,
            dxy=sum(map(mul, axis.dx, dy)),
            dyy=sum(map(mul, dy, dy)),
        )

    def __add__(self, later: Moments) -> Moments:
        """Those of both, ``later`` coming after this one (Chan, Golub and LeVeque 1979)."""
        count = self.count + later.count
        dx, dy = later.mean_step - self.mean_step, later.mean - self.mean
        weight = self.count * later.count / count
        gap_x, gap_y = later.first_step - self.last_step, later.first - self.last
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
            dxx=self.dxx + later.dxx + gap_x * gap_x,
            dxy=self.dxy + later.dxy + gap_x * gap_y,
            dyy=self.dyy + later.dyy + gap_y * gap_y,
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
        """Whether the slope is more than chance. Neighbours that are alike make a line of noise look sure of itself:
        the standard error grows with the correlation of the residuals from one value to the next (Bartlett 1946)."""
        slope = self.slope
        rest = self.yy - slope * self.xy
        if self.count < LEAST or slope == 0 or not isfinite(slope) or not isfinite(self.yy):
            return "stable"
        sign: Direction = "increasing" if slope > 0 else "decreasing"
        if rest <= 1e-12 * self.yy:
            return sign
        jumps = self.dyy - 2 * slope * self.dxy + slope * slope * self.dxx
        alike = min(max(0.0, 1 - jumps / (2 * rest)), MAX_CORRELATION)
        inflation = (1 + alike) / (1 - alike)
        if self.count / inflation < LEAST_INDEPENDENT:
            return "stable"
        error = sqrt(rest / (self.count - 2) / self.xx * inflation)
        return sign if abs(slope) > SIGNIFICANT * error else "stable"
