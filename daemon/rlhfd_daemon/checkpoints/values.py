"""What the codes of 8- and 16-bit types mean, and how wide a tally's buckets are for the wider ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CODED", "CODES", "NUMPY", "code_values", "edges", "upper_halves"]

CODES = 1 << 16
CODED = frozenset(
    {"bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int16", "int8", "uint8", "bool"}
)  # of 8 or 16 bits: how often each code occurs tells everything
NUMPY: dict[str, type[np.generic]] = {
    "float64": np.float64,
    "float32": np.float32,
    "int64": np.int64,
    "int32": np.int32,
}  # what is not in CODED


@cache
def code_values(dtype: str) -> NDArray[np.float64]:
    """The value of every code of ``dtype``, which is in :data:`CODED`: 65,536 or 256 of them."""
    wide, narrow = np.arange(CODES, dtype=np.uint16), np.arange(256, dtype=np.uint8)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        match dtype:
            case "bfloat16":
                found: NDArray[np.float64] = (wide.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
                return found
            case "float16":
                return wide.view(np.float16).astype(np.float64)
            case "float8_e5m2":  # the upper half of a float16
                return (narrow.astype(np.uint16) << 8).view(np.float16).astype(np.float64)
            case "float8_e4m3fn":
                return _e4m3fn(narrow)
            case "int16":
                return wide.view(np.int16).astype(np.float64)
            case "int8":
                return narrow.view(np.int8).astype(np.float64)
            case "bool":
                return np.minimum(narrow, 1).astype(np.float64)
            case _:
                return narrow.astype(np.float64)


def _e4m3fn(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Four bits of exponent, biased by 7, three of mantissa, no infinity (https://arxiv.org/abs/2209.05433)."""
    exponent, mantissa = (codes >> 3 & 15).astype(np.int64), (codes & 7).astype(np.float64)
    size = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent - 10))
    size[(codes & 127) == 127] = np.nan
    return np.where(codes >> 7 == 1, -size, size)


def upper_halves(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The bucket of each finite value: the upper half of the float32 next to it on the side of zero. What is beyond
    float32 goes to its last ones. As ``code`` of kernel.c."""
    bits = values.view(np.int64)
    magnitude = (bits >> 45 & 0x3FFFF) - ((1023 - 127) << 7)
    sign = (bits >> 48 & 0x8000).astype(np.uint16)
    with np.errstate(over="ignore", under="ignore"):
        small = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return np.where(magnitude < 0x80, small, np.minimum(magnitude, 0x7F7F).astype(np.uint16) | sign)


def edges(buckets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the greatest value that each bucket may hold; apart by 2**-7 of the value, or 2**-133."""
    magnitude = buckets.astype(np.uint32) & 0x7FFF
    inner = (magnitude << 16).view(np.float32).astype(np.float64)
    outer = (magnitude + 1 << 16).view(np.float32).astype(np.float64)
    negative = buckets >= 0x8000
    return np.where(negative, -outer, inner), np.where(negative, -inner, outer)
