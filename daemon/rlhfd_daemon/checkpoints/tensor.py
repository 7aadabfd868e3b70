"""Where the bytes of a tensor are: what every reader of a format returns and every statistic is made from."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ITEM_BYTES", "Tensor"]

ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Bytes of one element, by the name that torch gives the type."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a file, little-endian and not compressed.

    ``file`` is relative to the folder that was opened; ``offset`` is the byte in the file at which its first element
    is; ``strides`` are in elements, empty for a contiguous one in row-major order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    strides: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        """How many elements it has; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.elements * ITEM_BYTES[self.dtype]
