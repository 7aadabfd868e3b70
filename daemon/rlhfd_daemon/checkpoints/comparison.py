"""A tensor beside the same of the checkpoint before, both streamed together; and which tensors are the same at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhfd_daemon.checkpoints.kernel import Kernel, kernel
from rlhfd_daemon.checkpoints.portable import Differences
from rlhfd_daemon.checkpoints.tally import whole_elements
from rlhfd_daemon.checkpoints.tensor import ITEM_BYTES, Tensor
from rlhfd_daemon.errors import CheckpointError

__all__ = ["Comparison", "Structure", "comparison", "differences", "structure", "tolerance"]

# By type: half the distance between neighbours relative to them, and the smallest distance.
PRECISION = {
    "float64": (2.0**-53, 2.0**-1074),
    "float32": (2.0**-24, 2.0**-149),
    "float16": (2.0**-11, 2.0**-24),
    "bfloat16": (2.0**-8, 2.0**-133),
    "float8_e4m3fn": (2.0**-4, 2.0**-9),
    "float8_e5m2": (2.0**-3, 2.0**-16),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two tensors of the same shape. Norms and sums are of the ``finite`` pairs, in which both are finite.

    ``changed`` counts elements whose value is another: two NaN are the same, 0 and -0, too; between different types
    what rounding to the coarser one explains is no change. ``relative_update`` is |new - old| / |old| (L2), ``cosine``
    the cosine of the angle between both, ``norm_ratio`` |new| / |old|, ``largest_change`` the largest |new - old| of
    an element. ``None``: not defined, since a norm is 0 or there are no finite pairs.
    """

    elements: int
    finite: int
    changed: int
    relative_update: float | None
    cosine: float | None
    norm_ratio: float | None
    largest_change: float | None

    @property
    def changed_ratio(self) -> float | None:
        """The share of elements that changed."""
        return self.changed / self.elements if self.elements else None

    @property
    def unchanged(self) -> bool:
        """None of its elements changed; false if it has none."""
        return self.elements > 0 and self.changed == 0

    @property
    def orders_of_magnitude(self) -> float | None:
        """The logarithm of the ratio of the norms: 1 if the new one is ten times the old one, -1 if a tenth."""
        return math.log10(self.norm_ratio) if self.norm_ratio else None


def differences(
    old_dtype: str,
    old: Iterable[memoryview],
    new_dtype: str,
    new: Iterable[memoryview],
    using: Kernel | None = None,
) -> Differences:
    """The sums of one tensor, mergeable by ``Differences.add``. Blocks may have any sizes on both sides. Raises
    :class:`CheckpointError` for types that are not known and if one side has more elements."""
    using, sums, limits = using or kernel(), Differences(), tolerance(old_dtype, new_dtype)
    for a, b in _pairs(old_dtype, old, new_dtype, new):
        using.differences((old_dtype, new_dtype), a, b, limits, sums)
    return sums


def tolerance(old_dtype: str, new_dtype: str) -> tuple[float, float]:
    """What two values may be apart, relative to the larger and besides, without being different."""
    if old_dtype == new_dtype:
        return 0.0, 0.0
    found = [PRECISION[one] for one in (old_dtype, new_dtype) if one in PRECISION]
    if len(found) < 2:
        return 0.0, 0.0
    return max(one[0] for one in found), max(one[1] for one in found) / 2


def comparison(sums: Differences) -> Comparison:
    """What is told of ``sums``."""
    old, new = _root(sums.old_square), _root(sums.new_square)
    some, both = sums.count > 0, old > 0 and new > 0 and math.isfinite(old * new)
    return Comparison(
        elements=sums.count + sums.odd,
        finite=sums.count,
        changed=sums.changed,
        relative_update=_root(sums.distance) / old if old > 0 and math.isfinite(old) else None,
        cosine=min(max(sums.product / old / new, -1.0), 1.0) if both and math.isfinite(sums.product) else None,
        norm_ratio=new / old if old > 0 and math.isfinite(old) else None,
        largest_change=sums.largest if some else None,
    )


@dataclass(frozen=True, slots=True)
class Structure:
    """Names of tensors, sorted: of one side only, and of both but with another shape or type."""

    appeared: tuple[str, ...]
    vanished: tuple[str, ...]
    reshaped: tuple[str, ...]
    retyped: tuple[str, ...]
    common: tuple[str, ...]  # with the same shape: these can be compared

    @property
    def same(self) -> bool:
        """Nothing appeared, vanished or got another shape or type."""
        return not (self.appeared or self.vanished or self.reshaped or self.retyped)


def structure(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> Structure:
    """What became of the tensors, by name."""
    both = sorted(old.keys() & new.keys())
    return Structure(
        appeared=tuple(sorted(new.keys() - old.keys())),
        vanished=tuple(sorted(old.keys() - new.keys())),
        reshaped=tuple(name for name in both if old[name].shape != new[name].shape),
        retyped=tuple(name for name in both if old[name].dtype != new[name].dtype),
        common=tuple(name for name in both if old[name].shape == new[name].shape),
    )


def _root(square: float) -> float:
    return math.sqrt(square) if math.isfinite(square) else math.inf


def _pairs(
    old_dtype: str, old: Iterable[memoryview], new_dtype: str, new: Iterable[memoryview]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Pieces of both with as many elements each."""
    sides = whole_elements(old_dtype, old), whole_elements(new_dtype, new)
    widths = ITEM_BYTES[old_dtype], ITEM_BYTES[new_dtype]
    while True:
        a, b = next(sides[0], None), next(sides[1], None)
        while a is not None and b is not None:
            count = min(a.size // widths[0], b.size // widths[1])
            yield a[: count * widths[0]], b[: count * widths[1]]
            a, b = a[count * widths[0] :], b[count * widths[1] :]
            if a.size and b.size:
                continue
            if not a.size and not b.size:
                break
            # The next block of one side, while what is left of the other is still good.
            a, b = (a, next(sides[1], None)) if a.size else (next(sides[0], None), b)
        if (a is None) != (b is None):
            raise CheckpointError("one of the two tensors has more elements: compare those of the same shape")
        if a is None:
            return
