"""A tensor counted: in one pass, in bounded memory, and mergeable with the counts of other tensors and shards."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhfd_daemon.checkpoints.kernel import Kernel, kernel
from rlhfd_daemon.checkpoints.portable import Moments
from rlhfd_daemon.checkpoints.tensor import ITEM_BYTES
from rlhfd_daemon.checkpoints.values import CODED, CODES, code_values, upper_halves
from rlhfd_daemon.errors import CheckpointError

__all__ = ["Tally", "merge", "tally", "whole_elements"]

FLUSH_BYTES = 1 << 30  # before a counter of 32 bits can be full


class _Scratch(threading.local):
    """Tables that are used for one tensor after the other: new ones cost more than a small tensor does."""

    def __init__(self) -> None:
        self.tables = np.zeros((2, CODES), np.uint32)


_SCRATCH = _Scratch()


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """How often each code occurs, for types of 8 and 16 bits; else the moments of the finite values, and how often each
    upper half of a float32 occurs. ``dtype`` is torch's name, or ``mixed``."""

    dtype: str
    codes: NDArray[np.uint16]  # those that occur, ascending
    counts: NDArray[np.int64]
    sums: Moments | None  # none for types of 8 and 16 bits: the codes tell all

    @property
    def elements(self) -> int:
        """Finite or not."""
        return int(self.counts.sum()) + (0 if self.sums is None else self.sums.nan + self.sums.infinite)

    def moments(self) -> Moments:
        """Of the finite values; exact to the last bit or two for types of 8 and 16 bits."""
        return _moments(self) if self.sums is None else self.sums


def tally(dtype: str, blocks: Iterable[memoryview], using: Kernel | None = None) -> Tally:
    """Count the elements in ``blocks``, little-endian and contiguous ones of any size, each done with before the next
    is taken. Raises :class:`CheckpointError` for a type that is unknown and for bytes that are no whole element."""
    using, tables, sums = using or kernel(), _SCRATCH.tables, Moments()
    flushed: NDArray[np.int64] | None = None
    tables[:], waiting = 0, 0
    for block in whole_elements(dtype, blocks):
        for start in range(0, block.size, FLUSH_BYTES):
            data = block[start : start + FLUSH_BYTES]
            waiting += data.size
            if waiting > FLUSH_BYTES:
                flushed = tables.sum(axis=0, dtype=np.int64) + (0 if flushed is None else flushed)
                tables[:], waiting = 0, data.size
            if dtype in CODED:
                using.count(data, ITEM_BYTES[dtype], tables)
            else:
                using.moments(dtype, data, tables, sums)
    counts = tables[0] + tables[1] if flushed is None else tables.sum(axis=0, dtype=np.int64) + flushed
    codes = np.flatnonzero(counts)
    found = counts[codes].astype(np.int64)
    return Tally(dtype, codes.astype(np.uint16), found, None if dtype in CODED else sums)


def merge(tallies: Iterable[Tally]) -> Tally:
    """The tally of all their elements together. Those of one type of 8 or 16 bits stay exact; others are counted by
    upper halves from then on. Raises ``ValueError`` if there are none."""
    parts = list(tallies)
    if not parts:
        raise ValueError("nothing to merge")
    dtypes = {part.dtype for part in parts}
    coded = len(dtypes) == 1 and parts[0].sums is None
    counts, sums = np.zeros(CODES, np.int64), Moments()
    for part in parts:
        same = part if coded or part.sums is not None else _by_upper_halves(part)
        np.add.at(counts, same.codes, same.counts)
        if same.sums is not None:
            sums.add(same.sums)
    codes = np.flatnonzero(counts)
    dtype = dtypes.pop() if len(dtypes) == 1 else "mixed"
    return Tally(dtype, codes.astype(np.uint16), counts[codes], None if coded else sums)


def whole_elements(dtype: str, blocks: Iterable[memoryview]) -> Iterator[NDArray[np.uint8]]:
    """The bytes of ``blocks``, cut between elements and aligned to them; each is valid until the next is taken."""
    width = ITEM_BYTES.get(dtype)
    if width is None:
        raise CheckpointError(f"{dtype}: not a type of tensors that is known here: {', '.join(sorted(ITEM_BYTES))}")
    rest = np.empty(0, np.uint8)
    for block in blocks:
        data = np.frombuffer(block, np.uint8)
        if rest.size:
            data = np.concatenate((rest, data))
        size = data.size - data.size % width
        if size:
            cut = data[:size]
            yield cut if cut.ctypes.data % width == 0 else cut.copy()
        rest = data[size:].copy()
    if rest.size:
        raise CheckpointError(f"{rest.size} bytes are left over behind the last whole {dtype}")


def _moments(one: Tally) -> Moments:
    values = code_values(one.dtype)[one.codes]
    finite = np.isfinite(values)
    sums, numbers, counts = Moments(), values[finite], one.counts[finite]
    sums.nan = int(one.counts[np.isnan(values)].sum())
    sums.infinite = int(one.counts[np.isinf(values)].sum())
    if not numbers.size:
        return sums
    sums.count = int(counts.sum())
    sums.zeros = int(counts[numbers == 0].sum())
    sums.min, sums.max = float(numbers.min()), float(numbers.max())
    # Products of a count and a short significand are exact, and fsum rounds once.
    sums.sum = math.fsum(counts * numbers)
    sums.square = math.fsum(counts * numbers**2)
    sums.m2 = math.fsum(counts * (numbers - sums.sum / sums.count) ** 2)
    return sums


def _by_upper_halves(one: Tally) -> Tally:
    values = code_values(one.dtype)[one.codes]
    finite = np.isfinite(values)
    counts = np.zeros(CODES, np.int64)
    np.add.at(counts, upper_halves(values[finite]), one.counts[finite])
    codes = np.flatnonzero(counts)
    return Tally(one.dtype, codes.astype(np.uint16), counts[codes], one.moments())
