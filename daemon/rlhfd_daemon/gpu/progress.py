"""A page of memory in which the child says which NVML call it is in, so that the daemon sees a call that hangs."""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

__all__ = ["EVENTS", "MAIN", "NO_GPU", "Mark", "ProgressPage", "ProgressSlot"]

# One slot for each of the child's threads that call NVML.
MAIN, EVENTS = 0, 1
NO_GPU = -1
_SLOT = struct.Struct("<Qi52s")  # marks so far, GPU, call ("" between calls)
_SLOTS = 2


class Mark(NamedTuple):
    """The newest mark of a slot. ``marks`` grows with every begin and end; 0: none yet."""

    marks: int
    gpu: int
    call: str


class ProgressPage:
    """The daemon's side: makes the page and looks at it. ``fd`` is to be inherited by the child."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("rlhfd-gpu-progress", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, mmap.PAGESIZE)
        self._page = mmap.mmap(self.fd, mmap.PAGESIZE)

    def read(self, slot: int) -> Mark:
        """What the child is at. May be torn between two calls: it is a report for people, ``marks`` decides."""
        marks, gpu, call = _SLOT.unpack_from(self._page, slot * _SLOT.size)
        return Mark(marks, gpu, call.rstrip(b"\0").decode("ascii", "replace"))

    def close(self) -> None:
        """Safe to call twice."""
        if not self._page.closed:
            self._page.close()
            os.close(self.fd)


class ProgressSlot:
    """The child's side, for one thread; costs no system call."""

    def __init__(self, page: mmap.mmap, slot: int) -> None:
        self._page = page
        self._offset = slot * _SLOT.size
        self._marks = 0

    def begin(self, call: str, gpu: int = NO_GPU) -> None:
        self._mark(call.encode("ascii", "replace")[:52], gpu)

    def end(self) -> None:
        self._mark(b"", NO_GPU)

    def _mark(self, call: bytes, gpu: int) -> None:
        self._marks += 1
        _SLOT.pack_into(self._page, self._offset, self._marks, gpu, call)


assert _SLOTS * _SLOT.size <= mmap.PAGESIZE
