"""What kernel.c does, in numpy, and the structures that both fill."""

from __future__ import annotations

import ctypes
import math

import numpy as np
from numpy.typing import NDArray

from rlhfd_daemon.checkpoints.values import CODED, CODES, NUMPY, code_values, upper_halves

__all__ = ["Differences", "Moments", "Numpy", "elements"]


class Moments(ctypes.Structure):
    """Of the finite values, as in kernel.c: ``m2`` is the sum of squared distances from the mean, ``square`` that of
    the squares, ``low`` what ``sum`` lost by rounding."""

    count: int
    zeros: int
    nan: int
    infinite: int
    sum: float
    low: float
    m2: float
    square: float
    min: float
    max: float
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("count", "zeros", "nan", "infinite")),
        *((name, ctypes.c_double) for name in ("sum", "low", "m2", "square", "min", "max")),
    )

    def __init__(self) -> None:
        super().__init__(min=math.inf, max=-math.inf)

    def add(self, other: Moments) -> None:
        """Merge (Chan, Golub, LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115)."""
        if other.count:
            mean = (other.sum + other.low) / other.count
            apart = mean - (self.sum + self.low) / self.count if self.count else 0.0
            total = self.sum + other.sum
            big, small = (self.sum, other.sum) if abs(self.sum) >= abs(other.sum) else (other.sum, self.sum)
            self.low += big - total + small + other.low
            self.sum = total
            self.m2 += other.m2 + apart * apart * (self.count * other.count / (self.count + other.count))
        self.square += other.square
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)
        self.count += other.count
        self.zeros += other.zeros
        self.nan += other.nan
        self.infinite += other.infinite


class Differences(ctypes.Structure):
    """Of pairs of which both are finite, as in kernel.c; ``odd`` are the others, ``changed`` counts both."""

    count: int
    changed: int
    odd: int
    distance: float
    old_square: float
    new_square: float
    product: float
    largest: float
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("count", "changed", "odd")),
        *((name, ctypes.c_double) for name in ("distance", "old_square", "new_square", "product", "largest")),
    )

    def add(self, other: Differences) -> None:
        """Merge."""
        for name in ("count", "changed", "odd", "distance", "old_square", "new_square", "product"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)


class Numpy:
    """A ``kernel.Kernel``."""

    def count(self, data: NDArray[np.uint8], width: int, tables: NDArray[np.uint32]) -> None:
        found = np.bincount(data if width == 1 else data.view(np.uint16))
        tables[0, : found.size] += found.astype(np.uint32)

    def moments(self, dtype: str, data: NDArray[np.uint8], tables: NDArray[np.uint32], into: Moments) -> None:
        every = elements(dtype, data)
        values = every[np.isfinite(every)]
        part = Moments()
        part.nan = int(np.isnan(every).sum())
        part.infinite = every.size - values.size - part.nan
        part.count = values.size
        if values.size:
            with np.errstate(over="ignore", invalid="ignore"):
                part.sum = float(values.sum())
                apart = values - part.sum / values.size
                part.m2, part.square = float(np.dot(apart, apart)), float(np.dot(values, values))
            part.min, part.max = float(values.min()), float(values.max())
            part.zeros = values.size - int(np.count_nonzero(values))
            tables[0] += np.bincount(upper_halves(values), minlength=CODES).astype(np.uint32)
        into.add(part)

    def differences(
        self,
        types: tuple[str, str],
        old: NDArray[np.uint8],
        new: NDArray[np.uint8],
        tolerance: tuple[float, float],
        into: Differences,
    ) -> None:
        a, b = elements(types[0], old), elements(types[1], new)
        both = np.isfinite(a) & np.isfinite(b)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        part = Differences()
        part.count = int(both.sum())
        part.odd = a.size - part.count
        a, b = a[both], b[both]
        with np.errstate(over="ignore", invalid="ignore"):
            apart = np.abs(b - a)
            larger = np.maximum(np.abs(a), np.abs(b))
            part.changed = int((~same & ~both).sum() + (apart > tolerance[0] * larger + tolerance[1]).sum())
            part.distance, part.product = float(np.dot(apart, apart)), float(np.dot(a, b))
            part.old_square, part.new_square = float(np.dot(a, a)), float(np.dot(b, b))
        part.largest = float(apart.max(initial=0.0))
        into.add(part)


def elements(dtype: str, data: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The values of a block."""
    if dtype in CODED:
        values = code_values(dtype)
        return values.take(data if values.size == 256 else data.view(np.uint16))
    with np.errstate(invalid="ignore"):
        return data.view(NUMPY[dtype]).astype(np.float64)
