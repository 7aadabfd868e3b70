"""The files of steps.py: one folder for each launch of a run, appended to, rotated, bounded, repaired when torn."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["CURRENT", "PREVIOUS", "StepFile", "folder_of", "forget_oldest"]

CURRENT, PREVIOUS = "steps.jsonl", "steps.1.jsonl"
TAIL_BYTES = 1 << 20  # several of the longest lines
MAX_NAME = 80
_PLAIN = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}", re.ASCII)
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_OTHER = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)


def folder_of(root: Path, run: str, boot: str) -> Path:
    """Where the steps of one launch are. Names may hold anything; what is in ``root`` stays in ``root``."""
    return root / _file_name(run) / _file_name(boot)


def _file_name(name: str) -> str:
    """``name`` itself if it is plain. Any other keeps what is readable of it and gets its hash behind a `~`, which no
    plain name has: two names never share a folder."""
    if _PLAIN.fullmatch(name):
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return f"{_OTHER.sub('_', name)[:MAX_NAME].lstrip('.') or '_'}~{digest}"


class StepFile:
    """``last_step`` is that of the newest line that is not late, ``None`` if there is no line yet.

    Nothing is kept open: the files may be moved or deleted at any time. At most ``max_bytes`` in two files: a full
    one takes the place of the one before.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.path = folder / CURRENT
        self._file_bytes = max_bytes // 2
        self.last_step = _last_step(self.path)
        if self.last_step is None:
            self.last_step = _last_step(folder / PREVIOUS)

    def append(self, lines: Sequence[bytes], step: int) -> None:
        """Write all ``lines``, or none and raise :class:`OSError`; ``step`` is ``last_step`` afterwards."""
        data = b"".join(lines)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path, _FLAGS, 0o600)
        try:
            size = _without_torn_tail(fd)
            if size and size + len(data) > self._file_bytes:
                os.replace(self.path, self.folder / PREVIOUS)
                full, fd = fd, os.open(self.path, _FLAGS, 0o600)
                os.close(full)
                marker = {"step": step if self.last_step is None else self.last_step, "continues": PREVIOUS}
                data, size = json.dumps(marker, separators=(",", ":")).encode() + b"\n" + data, 0
            _write_all(fd, data, size)
        finally:
            os.close(fd)
        self.last_step = step


def _write_all(fd: int, data: bytes, size: int) -> None:
    written = 0
    try:
        while written < len(data):
            written += os.write(fd, data[written:])
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)  # a full disk takes half of a line
        raise


def _without_torn_tail(fd: int) -> int:
    """The size, after what is left of a line that a crash cut off is gone."""
    size = os.fstat(fd).st_size
    if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
        return size
    start = max(0, size - TAIL_BYTES)
    size = start + os.pread(fd, TAIL_BYTES, start).rfind(b"\n") + 1
    os.ftruncate(fd, size)
    return size


def _last_step(path: Path) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        tail = os.pread(fd, TAIL_BYTES, max(0, os.fstat(fd).st_size - TAIL_BYTES))
    except OSError:
        return None
    finally:
        os.close(fd)
    for line in reversed(tail.split(b"\n")[:-1]):
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int) and not row.get("late"):
                return int(row["step"])
    return None


def forget_oldest(root: Path, keep: int) -> int:
    """Delete the steps of all launches but the ``keep`` newest, by when they were written last; returns how many.
    Whatever else lies in a folder stays. :raises OSError: something cannot be deleted."""
    aged = []
    for path in root.glob(f"*/*/{CURRENT}"):
        with contextlib.suppress(FileNotFoundError):
            aged.append((path.stat().st_mtime, path.parent))
    oldest = [folder for _, folder in sorted(aged)[: max(0, len(aged) - keep)]]
    for folder in oldest:
        for name in (PREVIOUS, CURRENT):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()
            folder.parent.rmdir()
    return len(oldest)
