"""Values as a line of bars: what a series looked like, in text."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

__all__ = ["sparkline"]

_BARS = "▁▂▃▄▅▆▇█"
_FLAT = "▄"
_NOT_FINITE = "×"
_WIDTH = 32


def sparkline(values: Sequence[float]) -> str:
    """Return ``values`` (oldest first) as at most 32 bars from lowest to highest; "×" is not a finite number.

    More values than bars are folded: a bar shows the most unusual value of its share, so that a spike survives.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return _NOT_FINITE * min(len(values), _WIDTH)
    centre = statistics.median_low(finite)
    shown = [_most_unusual(share, centre) for share in _shares(values)]
    low, high = min(finite), max(finite)
    return "".join(_bar(value, low, high) for value in shown)


def _shares(values: Sequence[float]) -> list[Sequence[float]]:
    count = min(len(values), _WIDTH)
    edges = [index * len(values) // count for index in range(count + 1)]
    return [values[start:end] for start, end in itertools.pairwise(edges)]


def _most_unusual(values: Sequence[float], centre: float) -> float:
    return max(values, key=lambda value: abs(value - centre) if math.isfinite(value) else math.inf)


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return _NOT_FINITE
    span = high / 2 - low / 2  # halved: high - low can overflow
    if span == 0:
        return _FLAT
    return _BARS[min(int((value / 2 - low / 2) / span * len(_BARS)), len(_BARS) - 1)]
