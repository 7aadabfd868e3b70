"""Where a series stands: a resistant line through its last values, and how far values scatter about it."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sin, sqrt
from operator import eq
from typing import NamedTuple

__all__ = ["Line", "fit", "middle", "rise"]

QUARTILES_SIGMAS = 1.349  # between the quartiles of a normal distribution
TAIL_SIGMAS = 1.645  # from its median to its 95th percentile
MAX_CORRELATION = 0.8


class Line(NamedTuple):
    """``level`` at the newest of the values, ``slope`` per value, ``scale``: a robust standard deviation about the
    line, enlarged where values depend on those before: of such more lie on one side for a while."""

    level: float
    slope: float
    scale: float


def fit(values: Sequence[float]) -> Line:
    """Tukey's resistant line (Exploratory Data Analysis, 1977) through at least 6 finite ``values``, oldest first.

    Its slope is that between the medians of the first and the last third; up to a sixth of the values may be anything.
    Scale is the larger of two estimates, by the quartiles and by the larger of the distances of the 5th and the 95th
    percentile from the median: the second still moves for a ratio that is 0 nearly half of the time. It is 0 if all
    values lie on the line.
    """
    count = len(values)
    third = count // 3
    slope = (middle(values[-third:]) - middle(values[:third])) / (count - third)
    flat = [value - slope * index for index, value in enumerate(values)]
    ordered = sorted(flat)
    start, tail = ordered[count // 2], count // 20
    wide = max(ordered[-1 - tail] - start, start - ordered[tail])
    scale = max((ordered[count * 3 // 4] - ordered[count // 4]) / QUARTILES_SIGMAS, wide / TAIL_SIGMAS)
    return Line(start + slope * (count - 1), slope, scale * _dependence(flat, start) if scale > 0 else 0.0)


def middle(values: Sequence[float]) -> float:
    """The median; of an even count the upper of the two in the middle."""
    return sorted(values)[len(values) // 2]


def rise(values: Sequence[float]) -> float:
    """By how much the second half of two or more values lies above the first."""
    half = len(values) // 2
    return middle(values[half:]) - middle(values[:half])


def _dependence(values: Sequence[float], middle: float) -> float:
    """By how much the mean of a few such values scatters more than that of independent ones, for AR(1). Neighbours of
    correlation r lie on the same side of the middle with probability 1/2 + arcsin(r) / pi (Sheppard 1899)."""
    above = [value > middle for value in values]
    agreement = sum(map(eq, above, above[1:])) / (len(above) - 1)
    if agreement <= 0.5:
        return 1.0
    correlation = min(sin(pi * (agreement - 0.5)), MAX_CORRELATION)
    return sqrt((1 + correlation) / (1 - correlation))
