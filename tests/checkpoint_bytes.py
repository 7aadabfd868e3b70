"""Bytes of tensors for the tests of checkpoints: made, cut into blocks, and decoded in ways of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rlhfd_daemon.checkpoints.kernel import Kernel, kernel
from rlhfd_daemon.checkpoints.portable import Numpy
from rlhfd_daemon.checkpoints.tensor import ITEM_BYTES
from rlhfd_daemon.checkpoints.values import NUMPY

Array = NDArray[Any]
DTYPES = sorted(ITEM_BYTES)
KERNELS: list[Kernel] = [kernel(), Numpy()]
both_kernels = pytest.mark.parametrize("using", KERNELS, ids=lambda one: type(one).__name__)


def doubles(dtype: str, data: bytes) -> Array:
    """The values, decoded in ways of their own."""
    with np.errstate(invalid="ignore"):
        if dtype in NUMPY:
            return np.frombuffer(data, NUMPY[dtype]).astype(np.float64)
        if dtype == "bfloat16":
            padded = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
            return np.frombuffer(padded, np.float32).astype(np.float64)
        if dtype == "float8_e5m2":
            return np.frombuffer(b"".join(b"\0" + bytes([one]) for one in data), np.float16).astype(np.float64)
        if dtype == "float8_e4m3fn":
            return np.array([e4m3fn(one) for one in data], np.float64)
        if dtype == "bool":
            return np.frombuffer(data, np.uint8).astype(bool).astype(np.float64)
        return np.frombuffer(data, dtype).astype(np.float64)


def e4m3fn(code: int) -> float:
    sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    if (exponent, mantissa) == (15, 7):
        return math.nan
    return sign * (mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def cut(data: bytes, size: int) -> Iterator[memoryview]:
    """Blocks in one buffer that is used again, as the reader's."""
    buffer = bytearray(size)
    for start in range(0, len(data), size):
        part = data[start : start + size]
        buffer[: len(part)] = part
        yield memoryview(buffer)[: len(part)]
    buffer[:] = b"\xff" * size


def whole(dtype: str, data: bytes) -> bytes:
    return data[: len(data) - len(data) % ITEM_BYTES[dtype]]


def normal(dtype: str, count: int, seed: int = 0, mean: float = 0.0) -> bytes:
    values = np.random.default_rng(seed).standard_normal(count) * 0.02 + mean
    if dtype == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    if dtype in ("int32", "int64"):
        return (values * 1e6).astype(dtype).tobytes()
    return values.astype(dtype).tobytes()
