"""Segments as files: their names, listing them, loading their bytes, setting bad ones aside."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

from rlhfd_daemon.errors import FrameLogError
from rlhfd_daemon.segment import SEGMENT_HEADER_BYTES, header_problem

__all__ = ["QUARANTINE", "SegmentFile", "check", "list_segments", "load", "quarantine", "segment_name"]

QUARANTINE = "quarantine"

_NAME = re.compile(r"frames-(\d{16})\.log")


@dataclass(frozen=True)
class SegmentFile:
    """A directory entry with a segment's name. ``first_id`` is the id in the name, ``size`` is in bytes as listed
    (0 for what is not a regular file)."""

    first_id: int
    path: Path
    size: int


def segment_name(first_id: int) -> str:
    """The file name of the segment whose first record is ``first_id``; names sort as ids do."""
    return f"frames-{first_id:016d}.log"


def list_segments(directory: Path) -> list[SegmentFile]:
    """All entries of ``directory`` with a segment's name, oldest first, whatever they are. ``OSError`` passes."""
    found: list[SegmentFile] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            match = _NAME.match(entry.name)
            if match is None or match.end() != len(entry.name):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # deleted by the daemon's retention since the directory was read
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            found.append(SegmentFile(int(match[1]), Path(entry.path), size))
    return sorted(found, key=lambda segment: segment.first_id)


def check(path: Path) -> str | None:
    """Why the file at ``path`` is no segment this version can append to or read, or ``None`` if it is one."""
    try:
        # lstat first: opening a FIFO would wait for a writer, and a link may lead anywhere.
        if not stat.S_ISREG(path.lstat().st_mode):
            return "not a regular file"
        with path.open("rb") as file:
            return header_problem(file.read(SEGMENT_HEADER_BYTES))
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def quarantine(path: Path) -> Path:
    """Move ``path`` into the ``quarantine`` folder beside it and return its new place. ``OSError`` passes."""
    folder = path.parent / QUARANTINE
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / path.name
    attempt = 0
    while os.path.lexists(target):
        attempt += 1
        target = folder / f"{path.name}.{attempt}"
    path.rename(target)
    return target


def load(path: Path) -> bytes:
    """The bytes of a segment, unpacked if its name ends in ``.xz`` or ``.gz``.

    Read whole rather than mapped: a mapped file that is truncated meanwhile kills the reader with SIGBUS.
    Raises :class:`FrameLogError` for a damaged archive; ``OSError`` passes.
    """
    try:
        if path.suffix == ".xz":
            return lzma.decompress(path.read_bytes())
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes())
    except (lzma.LZMAError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FrameLogError(f"{path}: damaged archive: {error}") from error
    return path.read_bytes()
