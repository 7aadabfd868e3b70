"""Least-squares lines through values, and whether what they describe is a steady course. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf, isfinite, sqrt
from statistics import median

__all__ = ["Line", "blocks", "course", "fit", "steady"]

BLOCKS = 8
STEADY = (0.2, 3.0)  # a block's change, as a multiple of the mean change: a jump or a pause is outside
SLOWING = 0.5  # the second half's slope as a share of the first's: a course that slows down more is about to end

CAUTION = 0.7  # of how long a course that slows down is taken to last


@dataclass(frozen=True)
class Line:
    """``slope`` per unit of x with its standard ``error``, the fitted value ``at_end``, and ``r2``, the share of the
    variance that the line explains. ``lasts``: as if it went on for so many units of x and then stopped, if it slows
    down in every half as it did from the first to the second."""

    slope: float
    error: float
    at_end: float
    r2: float
    lasts: float = inf


def fit(xs: Sequence[float], ys: Sequence[float]) -> Line | None:
    """The least-squares line; ``None`` with fewer than three points, without a spread of x, or beyond what floats
    hold."""
    count = len(xs)
    if count < 3:
        return None
    mean_x, mean_y = sum(xs) / count, sum(ys) / count
    sxx = sum((x - mean_x) * (x - mean_x) for x in xs)
    syy = sum((y - mean_y) * (y - mean_y) for y in ys)
    sxy = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    if not sxx > 0 or not isfinite(sxx + syy + abs(sxy)):
        return None
    slope = sxy / sxx
    unexplained = max(0.0, syy - slope * sxy)
    r2 = 1 - unexplained / syy if syy > 0 else 0.0
    return Line(slope, sqrt(unexplained / (count - 2) / sxx), mean_y + slope * (xs[-1] - mean_x), r2)


def blocks(values: Sequence[float]) -> list[float]:
    """The medians of :data:`BLOCKS` parts of equal length, the oldest values left out where they do not divide."""
    size = len(values) // BLOCKS
    start = len(values) - size * BLOCKS
    return [median(values[begin : begin + size]) for begin in range(start, len(values), size)]


def course(xs: Sequence[float], ys: Sequence[float]) -> Line | None:
    """The line through the medians of the blocks: single values far out do not matter. Its slope is the slower of the
    whole's and the second half's; ``None`` if it turns, stops, or nearly does."""
    if len(xs) < BLOCKS:
        return None
    x, y, half = blocks(xs), blocks(ys), BLOCKS // 2
    whole, first, second = fit(x, y), fit(x[:half], y[:half]), fit(x[half:], y[half:])
    if whole is None or first is None or second is None or first.slope == 0:
        return None
    keeps = second.slope / first.slope
    if keeps < SLOWING:
        return None
    slower = min((whole, second), key=lambda one: abs(one.slope))
    lasts = inf if keeps >= 1 else CAUTION * (xs[-1] - xs[0]) / 2 * keeps / (1 - keeps)
    return replace(slower, at_end=slower.at_end + slower.slope * (xs[-1] - x[-1]), r2=whole.r2, lasts=lasts)


def steady(xs: Sequence[float], ys: Sequence[float]) -> Line | None:
    """The :func:`course` of what goes one way all the time: no jumps, no pauses, no teeth."""
    line = course(xs, ys)
    if line is None:
        return None
    y = blocks(ys)
    mean = (y[-1] - y[0]) / (BLOCKS - 1)
    least, most = STEADY
    goes = mean != 0 and all(least <= (later - sooner) / mean <= most for sooner, later in pairwise(y))
    return line if goes else None
