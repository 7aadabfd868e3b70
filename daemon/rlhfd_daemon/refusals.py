"""Remembers which files the kernel refuses to read, and leaves them alone: an attempt may be a line in dmesg."""

from __future__ import annotations

import errno
from pathlib import Path

from rlhfd_daemon.procfs import read_bytes

__all__ = ["Refusals"]

RETRY_SECONDS = 3600.0
MAX_PATHS = 4096
REFUSED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})


class Refusals:
    """A file that says "invalid" or "not supported" is asked again after an hour. Times in monotonic seconds."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def allow(self, path: str, now: float) -> bool:
        """Whether ``path`` may be read now."""
        return now >= self._until.get(path, now)

    def note(self, path: str, error: int, now: float) -> None:
        """Reading ``path`` failed with the number ``error``."""
        if error in REFUSED and (path in self._until or len(self._until) < MAX_PATHS):
            self._until[path] = now + RETRY_SECONDS

    def read(self, path: str | Path, now: float) -> bytes:
        """The content of ``path``; empty if it is left alone or cannot be read."""
        if not self.allow(str(path), now):
            return b""
        try:
            return read_bytes(path)
        except OSError as error:
            self.note(str(path), error.errno or 0, now)
            return b""
