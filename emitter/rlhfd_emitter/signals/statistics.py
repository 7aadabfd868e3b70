"""Plain statistics over lists of numbers and over one-dimensional tensors, by the tensor's own methods."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

Tensor = Any  # torch is never imported: a tensor is what has its methods


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``torch.cat``, of the library that the tensors come from."""
    library: Any = sys.modules[type(tensors[0]).__module__.partition(".")[0]]
    return library.cat(tensors, dim)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """One row of tensors of any shape, one behind the other, without their history: a copy."""
    return cat([tensor.detach().flatten() for tensor in tensors])


def average(values: Tensor) -> float:
    """The mean; there must be a value. The tensor's own method takes twice as long for a few."""
    count: int = values.numel()
    return float(values.sum()) / count


def moments(name: str, values: Tensor) -> dict[str, float]:
    """``<name>/mean``, ``std`` (of the population), ``min`` and ``max``; nothing of nothing. NaN stays NaN."""
    if values.numel() == 0:
        return {}
    return {
        f"{name}/mean": average(values),
        f"{name}/std": math.sqrt(variance(values)),
        f"{name}/min": float(values.min()),
        f"{name}/max": float(values.max()),
    }


def variance(values: Tensor) -> float:
    """The variance of the population."""
    centred = values - average(values)
    count: int = values.numel()
    return float(centred.dot(centred)) / count


def mean(values: Sequence[float]) -> float:
    """The mean; there must be a value."""
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of the population; there must be a value."""
    centre = mean(values)
    return math.sqrt(mean([(value - centre) * (value - centre) for value in values]))


def least(values: Sequence[float]) -> float:
    """The least value, NaN if there is one among them."""
    return math.nan if any(map(math.isnan, values)) else min(values)


def greatest(values: Sequence[float]) -> float:
    """The greatest value, NaN if there is one among them."""
    return -least([-value for value in values])


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile, between neighbours by linear interpolation; NaN if there is one among ``values``."""
    if any(map(math.isnan, values)):
        return math.nan
    ranked = sorted(values)
    place = share * (len(ranked) - 1)
    below = int(place)
    low, high = ranked[below], ranked[min(below + 1, len(ranked) - 1)]
    return low if low == high else low + (high - low) * (place - below)


def pearson(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Pearson's correlation; ``None`` for fewer than two pairs, or if a side is constant; NaN if there is one in it."""
    if any(map(math.isnan, (*left, *right))):
        return math.nan
    if len(left) < 2 or min(left) == max(left) or min(right) == max(right):
        return None
    middle_left, middle_right = mean(left), mean(right)
    across = sum((a - middle_left) * (b - middle_right) for a, b in zip(left, right, strict=True))
    spread = math.sqrt(sum((a - middle_left) ** 2 for a in left) * sum((b - middle_right) ** 2 for b in right))
    return across / spread if spread else None
