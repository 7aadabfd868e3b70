"""Whether anything happened in some folders, by inotify(7): a hint, as network file systems say nothing."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

__all__ = ["Changes"]

# From sys/inotify.h. Not of reading: DeepSpeed and we read, too.
_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = (
    0x2, 0x4, 0x8, 0xC0, 0x100, 0x200, 0x400, 0x800,
)  # fmt: skip
_MASK = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_ONLY_FOLDERS, _NO_LINKS = 0x01000000, 0x02000000
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK and IN_CLOEXEC are the same
MAX_WATCHES = 1024
_BUFFER_BYTES = 1 << 16


class Changes:
    """Folders that are watched. ``with`` ends it."""

    def __init__(self) -> None:
        """Raises ``OSError`` where there is no inotify or no instance of it left."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._descriptor = self._libc.inotify_init1(_FLAGS)
        except AttributeError as error:
            raise OSError("no inotify here") from error
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._watched: dict[str, int] = {}

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._watched = {}

    def watch(self, root: str, folders: Iterable[str]) -> bool:
        """Watch ``folders`` and no others; whether all of them are. No link is followed, except for ``root``."""
        wanted = list(folders)[: MAX_WATCHES + 1]
        numbers = {}
        for folder in wanted[:MAX_WATCHES]:
            mask = _MASK | _ONLY_FOLDERS | (0 if folder == root else _NO_LINKS)
            number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), ctypes.c_uint32(mask))
            if number >= 0:
                numbers[folder] = number
        for number in set(self._watched.values()) - set(numbers.values()):
            self._libc.inotify_rm_watch(self._descriptor, number)  # fails for a folder that is gone
        self._watched = numbers
        return len(numbers) == len(wanted)

    def any(self) -> bool:
        """Whether anything happened since the last call."""
        happened = False
        try:
            while os.read(self._descriptor, _BUFFER_BYTES):
                happened = True
        except BlockingIOError:
            return happened
        return True
