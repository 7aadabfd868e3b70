"""One daemon per state directory: a lock that the kernel gives back however the holder ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from rlhfd_daemon.errors import StateError, StateLocked

__all__ = ["StateLock"]


class StateLock:
    """Exclusive use of ``state_dir``, which is created (mode 0700) if missing; a context manager.

    The lock belongs to the open file: a child made by ``fork`` without ``exec`` shares it and keeps it alive.
    """

    def __init__(self, state_dir: str | Path) -> None:
        self.path = Path(state_dir, "lock")
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock now, without waiting. :class:`StateLocked` if another process has it,
        :class:`StateError` if the directory cannot be used at all."""
        if self._fd is not None:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StateError(f"{self.path.parent}: cannot be used as state directory: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = _read_pid(fd)
            os.close(fd)
            raise StateLocked(str(self.path.parent), holder) from error
        except OSError as error:
            os.close(fd)
            raise StateError(f"{self.path}: cannot be locked: {error.strerror}") from error
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; safe to call twice. The file stays: removing it would let two holders coexist."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> StateLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _read_pid(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None
