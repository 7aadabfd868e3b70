"""What is told of a tensor or a group of tensors, made from its tally."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhfd_daemon.checkpoints.portable import Moments
from rlhfd_daemon.checkpoints.tally import Tally
from rlhfd_daemon.checkpoints.values import code_values, edges

__all__ = ["QUANTILES", "TensorStatistics", "statistics"]

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """Of the finite elements, except the counts; what a tensor without any does not have is ``None``.

    ``std`` is the population's (divided by the count); ``norm`` is L2; ``largest`` is the largest absolute value;
    ``quantiles`` belong to :data:`QUANTILES`, interpolated as ``numpy.quantile`` and ``torch.quantile`` do. They are
    exact for types of 8 and 16 bits (``quantiles_exact``); else each of the two values that are interpolated between is
    off by no more than 2**-7 of it, or 2**-133, if it is in float32's range. ``constant``: two elements or more, all
    finite and equal. Integers are taken as float64: exact up to 2**53. Squares of float64 may overflow from 1e154 on:
    ``std`` and ``norm`` are then infinite; if their sum does, ``mean`` is ``None``.
    """

    dtype: str
    elements: int
    nan: int
    infinite: int
    zeros: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    norm: float | None
    largest: float | None
    quantiles: tuple[float, ...] | None
    quantiles_exact: bool
    constant: bool

    @property
    def zero_ratio(self) -> float | None:
        """The share of zeros, of either sign, in all elements."""
        return self.zeros / self.elements if self.elements else None


def statistics(one: Tally) -> TensorStatistics:
    """Everything from one tally."""
    sums, exact = one.moments(), one.sums is None
    elements, some = one.elements, sums.count > 0
    low, high = sums.min, sums.max
    return TensorStatistics(
        dtype=one.dtype,
        elements=elements,
        nan=sums.nan,
        infinite=sums.infinite,
        zeros=sums.zeros,
        mean=_mean(sums.sum + sums.low, sums.count, low, high) if some else None,
        std=_root(sums.m2 / sums.count) if some else None,
        min=low if some else None,
        max=high if some else None,
        norm=_root(sums.square) if some else None,
        largest=max(abs(low), abs(high)) if some else None,
        quantiles=(_exact(one) if exact else _within_buckets(one, sums)) if some else None,
        quantiles_exact=exact,
        constant=elements > 1 and sums.count == elements and low == high,
    )


def _root(square: float) -> float:
    return math.sqrt(square) if math.isfinite(square) else math.inf


def _mean(total: float, count: int, low: float, high: float) -> float | None:
    """Never outside of the values by rounding; none if the sum overflowed."""
    return min(max(total / count, low), high) if math.isfinite(total) else None


def _exact(one: Tally) -> tuple[float, ...]:
    values = code_values(one.dtype)[one.codes]
    finite = np.isfinite(values)
    values, counts = values[finite], one.counts[finite]
    order = np.argsort(values, kind="stable")
    values, ends = values[order], np.cumsum(counts[order])

    def at(rank: int) -> float:
        return float(values[np.searchsorted(ends, rank, side="right")])

    return tuple(_between(at, quantile, int(ends[-1])) for quantile in QUANTILES)


def _within_buckets(one: Tally, sums: Moments) -> tuple[float, ...]:
    low, high = sums.min, sums.max
    innermost = int(one.counts[(one.codes & 0x7FFF) == 0].sum())
    lower, upper = _clipped(one.codes, low, high, innermost == sums.zeros)
    order = np.argsort(lower / 2 + upper / 2, kind="stable")
    lower, upper, counts = lower[order], upper[order], one.counts[order]
    ends = np.cumsum(counts)

    def at(rank: int) -> float:
        place = int(np.searchsorted(ends, rank, side="right"))
        inside = (rank - int(ends[place]) + int(counts[place]) + 0.5) / int(counts[place])
        return float(lower[place] + (upper[place] - lower[place]) * inside)

    return tuple(min(max(_between(at, quantile, int(ends[-1])), low), high) for quantile in QUANTILES)


def _clipped(
    buckets: NDArray[np.uint16], low: float, high: float, only_zeros: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The edges of the buckets, no further out than the values; the outermost hold what is beyond float32, too, the
    innermost subnormals, unless ``only_zeros``."""
    lower, upper = edges(buckets)
    lower[buckets == 0xFF7F], upper[buckets == 0x7F7F] = low, high
    if only_zeros:  # and no subnormals
        lower[buckets == 0x8000] = upper[buckets == 0] = 0.0
    return np.clip(lower, low, high), np.clip(upper, low, high)


def _between(at: Callable[[int], float], quantile: float, count: int) -> float:
    """Linear between the two nearest ranks."""
    place = quantile * (count - 1)
    below, above, part = at(math.floor(place)), at(math.ceil(place)), place - math.floor(place)
    apart = above - below
    return below + apart * part if math.isfinite(apart) else below * (1 - part) + above * part
