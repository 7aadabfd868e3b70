"""The bytes of a tensor in blocks, each element once, in row-major order; no faster than allowed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from rlhfd_daemon.checkpoints.defect import Refused
from rlhfd_daemon.checkpoints.opening import OpenFile
from rlhfd_daemon.checkpoints.tensor import ITEM_BYTES, Tensor

__all__ = ["BLOCK", "WINDOW", "Pace", "blocks", "in_storage_order", "is_contiguous", "span"]

BLOCK = 1 << 20
WINDOW = 32 << 20
"""Bytes that are held at most to gather the elements of a tensor that is not contiguous."""
PAGE = 4096
AMPLIFIED = 4
"""How many times its bytes a tensor that is not contiguous may take to read; beyond it is refused."""


@dataclass(slots=True)
class Pace:
    """At most ``rate`` bytes per second, not saved up while idle. ``due`` is in seconds of the clock of ``now``."""

    rate: float
    due: float = 0.0

    def take(self, count: int, now: float) -> float:
        """Seconds to wait after ``count`` bytes were read at ``now``."""
        self.due = max(self.due, now) + count / self.rate
        return self.due - now


def span(tensor: Tensor) -> int:
    """Bytes from its first element to the end of its last; 0 without elements."""
    item = ITEM_BYTES[tensor.dtype]
    if 0 in tensor.shape:
        return 0
    if not tensor.strides:
        return tensor.nbytes
    return item * (1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)))


def in_storage_order(tensor: Tensor) -> Tensor:
    """The same elements as they lie, if they lie without holes and each once, as those of a transposed one do; else
    ``tensor``. For what does not depend on the order."""
    if not tensor.strides:
        return tensor
    order = sorted(range(len(tensor.shape)), key=lambda index: (-tensor.strides[index], -tensor.shape[index]))
    shape = tuple(tensor.shape[index] for index in order)
    plain = is_contiguous(shape, tuple(tensor.strides[index] for index in order))
    return replace(tensor, shape=shape, strides=()) if plain else tensor


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether elements of ``shape`` with ``strides`` (in elements) lie one behind the other in row-major order."""
    wanted = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != wanted:
            return 0 in shape
        wanted *= size
    return True


def blocks(
    tensor: Tensor,
    opened: OpenFile,
    size: int = BLOCK,
    *,
    pace: Pace | None = None,
    forget: bool = False,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[memoryview]:
    """Yields the elements as bytes, up to ``size`` at once (whole elements); a block is good until the next one.

    ``opened`` is the file that the tensor was found in. ``forget`` takes what was read out of the page cache. At the
    end the file is looked at once more. Raises :class:`Vanished` for one that was deleted or changed, and
    :class:`Refused` for a tensor that the file does not hold or that lies too scattered to be read in a few passes.
    """
    if tensor.offset < 0 or tensor.offset + span(tensor) > opened.size:
        raise Refused("truncated", opened.name, "ends before the tensor does", tensor.name, size=opened.size)
    item = ITEM_BYTES[tensor.dtype]
    size = max(size - size % item, item)
    parts = _whole(tensor, opened, size) if not tensor.strides else _gathered(tensor, opened, size)
    for block, offset, taken in parts:
        if pace is not None and taken:
            wait = pace.take(taken, clock())
            if wait > 0:
                sleep(wait)
        yield block
        if forget and taken:
            os.posix_fadvise(opened.descriptor, offset, taken, os.POSIX_FADV_DONTNEED)
    opened.check()


_Part = tuple[memoryview, int, int]
"""A block, and the offset and count of the bytes of the file that were read for it."""


def _whole(tensor: Tensor, opened: OpenFile, size: int) -> Iterator[_Part]:
    # pread and not mmap: a file that is cut off meanwhile is a short read here, and SIGBUS there.
    left, offset = tensor.nbytes, tensor.offset
    buffer = memoryview(bytearray(min(size, left)))
    while left:
        block = buffer[: min(size, left)]
        opened.fill(block, offset)
        yield block, offset, len(block)
        offset += len(block)
        left -= len(block)


def _gathered(tensor: Tensor, opened: OpenFile, size: int) -> Iterator[_Part]:
    item = ITEM_BYTES[tensor.dtype]
    if 0 in tensor.shape:
        return
    dims = _dims(tensor, item)
    if _cost(dims, item) > max(AMPLIFIED * tensor.nbytes, WINDOW):
        raise Refused(
            "unsupported", opened.name, "its elements lie too scattered", tensor.name, strides=list(tensor.strides)
        )
    out, filled = memoryview(bytearray(size)), 0
    for window, offset, inner in _windows(opened, dims, item, tensor.offset):
        taken = len(window)
        for piece in _pieces(window, inner, item):
            position = 0
            while position < len(piece):
                count = min(size - filled, len(piece) - position)
                out[filled : filled + count] = piece[position : position + count]
                filled, position = filled + count, position + count
                if filled == size:
                    yield out, offset, taken
                    filled = taken = 0
        if taken:
            yield out[:filled], offset, taken
            filled = 0
    if filled:
        yield out[:filled], tensor.offset, 0


_Dims = list[tuple[int, int]]
"""Count and stride in bytes of each dimension, the outermost first."""


def _dims(tensor: Tensor, item: int) -> _Dims:
    """Its dimensions of more than one element; what can be walked as one dimension is one."""
    dims: _Dims = []
    for count, stride in zip(tensor.shape, tensor.strides, strict=True):
        if count == 1:
            continue
        if dims and dims[-1][1] == count * stride * item:
            dims[-1] = (dims[-1][0] * count, stride * item)
        else:
            dims.append((count, stride * item))
    return dims


def _extent(dims: _Dims, item: int) -> int:
    return item + sum((count - 1) * stride for count, stride in dims)


def _cost(dims: _Dims, item: int) -> int:
    """Bytes that :func:`_windows` reads, a page at least with each read."""
    if not dims or _extent(dims, item) <= WINDOW:
        return max(_extent(dims, item), PAGE)
    (count, stride), inner = dims[0], dims[1:]
    group = _group(stride, inner, item)
    if group:
        return -(-count // group) * max(_extent([(group, stride), *inner], item), PAGE)
    return count * _cost(inner, item)


def _group(stride: int, inner: _Dims, item: int) -> int:
    """How many of the outermost dimension fit into a window."""
    rest = WINDOW - _extent(inner, item)
    return 0 if rest < 0 else 1 + rest // stride if stride else 1 << 62


def _windows(opened: OpenFile, dims: _Dims, item: int, offset: int) -> Iterator[tuple[memoryview, int, _Dims]]:
    """The file's bytes from the first to the last element of parts of the tensor, and how these lie in them."""
    if not dims or _extent(dims, item) <= WINDOW:
        window = memoryview(bytearray(_extent(dims, item)))
        opened.fill(window, offset)
        yield window, offset, dims
        return
    (count, stride), inner = dims[0], dims[1:]
    group = _group(stride, inner, item)
    for first in range(0, count, group or 1):
        part = [(min(group, count - first), stride), *inner] if group else inner
        yield from _windows(opened, part, item, offset + first * stride)


def _pieces(window: memoryview, dims: _Dims, item: int, offset: int = 0) -> Iterator[memoryview | bytes]:
    """The elements in row-major order, as many at once as one slice gives."""
    if not dims:
        yield window[offset : offset + item]
    elif len(dims) == 1:
        count, stride = dims[0]
        if stride == item:
            yield window[offset : offset + count * item]
        elif stride == 0:
            yield bytes(window[offset : offset + item]) * count
        else:
            yield _every(window[offset : offset + (count - 1) * stride + item], stride, item)
    else:
        (count, stride), inner = dims[0], dims[1:]
        for index in range(count):
            yield from _pieces(window, inner, item, offset + index * stride)


def _every(row: memoryview, stride: int, item: int) -> bytes:
    """The element of ``item`` bytes at each ``stride`` bytes."""
    step = stride // item
    if item == 1:
        return row[::step].tobytes()
    if item == 2:
        return row.cast("H")[::step].tobytes()
    return (row.cast("I") if item == 4 else row.cast("Q"))[::step].tobytes()
