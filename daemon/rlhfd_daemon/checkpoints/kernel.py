"""Counting and summing blocks of memory: kernel.c where it has been compiled, else numpy; the same results, slower."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlhfd_daemon.checkpoints.portable import Differences, Moments, Numpy
from rlhfd_daemon.checkpoints.tensor import ITEM_BYTES
from rlhfd_daemon.checkpoints.values import code_values
from rlhfd_daemon.errors import CheckpointError

__all__ = ["Kernel", "Native", "kernel", "library_path"]

PACKAGE = Path(__file__).parents[1]
KINDS = {"float32": 0, "float64": 1, "int32": 2, "int64": 3, "bfloat16": 4}
TABLE16, TABLE8 = 5, 6

Bytes = NDArray[np.uint8]
Tables = NDArray[np.uint32]  # (2, 65,536); the sum over the first axis counts


class Kernel(Protocol):
    """What is done to blocks, each a whole number of elements."""

    def count(self, data: Bytes, width: int, tables: Tables) -> None:
        """Count the codes of ``width`` (1 or 2) bytes."""

    def moments(self, dtype: str, data: Bytes, tables: Tables, into: Moments) -> None:
        """Add float32, float64, int32 or int64 to ``into`` and count their upper halves (``values.upper_halves``)."""

    def differences(
        self, types: tuple[str, str], old: Bytes, new: Bytes, tolerance: tuple[float, float], into: Differences
    ) -> None:
        """Add as many ``old`` as ``new`` elements to ``into``; ``tolerance``: relative and absolute."""


class Native:
    """kernel.c, called without copies."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        pointer, size, real = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_double
        for name, arguments in {
            "rlhfd_count8": (pointer, size, pointer),
            "rlhfd_count16": (pointer, size, pointer),
            "rlhfd_moments": (ctypes.c_int, pointer, size, pointer, pointer),
            "rlhfd_differences": (
                ctypes.c_int, pointer, pointer, ctypes.c_int, pointer, pointer, size, real, real, pointer,
            ),
        }.items():  # fmt: skip
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None

    def count(self, data: Bytes, width: int, tables: Tables) -> None:
        function = self._library.rlhfd_count8 if width == 1 else self._library.rlhfd_count16
        function(data.ctypes.data, data.size // width, tables.ctypes.data)

    def moments(self, dtype: str, data: Bytes, tables: Tables, into: Moments) -> None:
        count = data.size // ITEM_BYTES[dtype]
        self._library.rlhfd_moments(KINDS[dtype], data.ctypes.data, count, tables.ctypes.data, ctypes.byref(into))

    def differences(
        self, types: tuple[str, str], old: Bytes, new: Bytes, tolerance: tuple[float, float], into: Differences
    ) -> None:
        sides: list[Any] = []
        for dtype, data in zip(types, (old, new), strict=True):
            kind, table = _meaning(dtype)
            sides += [kind, data.ctypes.data, None if table is None else table.ctypes.data]
        self._library.rlhfd_differences(*sides, old.size // ITEM_BYTES[types[0]], *tolerance, ctypes.byref(into))


@cache
def _meaning(dtype: str) -> tuple[int, NDArray[np.float32] | None]:
    if dtype in KINDS:
        return KINDS[dtype], None
    with np.errstate(invalid="ignore"):  # signalling NaNs
        table = code_values(dtype).astype(np.float32)
    return (TABLE8 if table.size == 256 else TABLE16), table


def library_path(package: Path = PACKAGE) -> Path:
    """Where hatch_build.py puts the library that it makes of kernel.c, if that is as it is now."""
    source = package / "checkpoints" / "kernel.c"
    return package / "native" / f"kernel-{sha256(source.read_bytes()).hexdigest()[:16]}.so"


@cache
def kernel() -> Kernel:
    """The faster one that there is; numpy with RLHFD_PURE. Raises :class:`CheckpointError` on a big-endian machine."""
    if sys.byteorder != "little":
        raise CheckpointError("checkpoints are little-endian, this machine is not: look at them on another one")
    if os.environ.get("RLHFD_PURE", "") in ("", "0"):
        try:
            return Native(ctypes.CDLL(str(library_path())))
        except (OSError, AttributeError):
            pass  # not compiled, or for another machine
    return Numpy()
