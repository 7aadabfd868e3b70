"""Reads and understands the files of ``/proc`` about processes; everything else about a node is in ``nodefs``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "CLOCK_TICKS", "PAGE_BYTES", "PROC", "Stat", "open_files", "open_files_limit", "parse_limit", "parse_stat", "pids",
    "read_bytes", "read_int", "read_line", "stat",
]  # fmt: skip

PROC = Path("/proc")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_READ_BYTES = 1 << 16
_FIELDS_AFTER_NAME = 22
_SOFT_LIMIT = re.compile(rb"^Max open files +(\d+|unlimited)\b", re.M)


class Stat(NamedTuple):
    """One process as ``/proc/<pid>/stat`` has it, see proc(5). ``name`` is the kernel's, of 15 characters;
    ``cpu_ticks`` (user and system) and ``start_ticks`` (since boot) in clock ticks; ``rss_pages`` in pages."""

    pid: int
    name: str
    state: str
    parent: int
    cpu_ticks: int
    threads: int
    start_ticks: int
    rss_pages: int


def read_bytes(path: str | Path) -> bytes:
    """The whole file, without the overhead of Python's file objects: a poll reads hundreds. :raises OSError:"""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        read = []
        while chunk := os.read(fd, _READ_BYTES):
            read.append(chunk)
    finally:
        os.close(fd)
    return b"".join(read)


def read_line(path: str | Path) -> bytes:
    """A file of one line: the kernel gives it with the first read, so none has to find out that it was all.
    :raises OSError:"""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _READ_BYTES)
    finally:
        os.close(fd)


def read_int(path: str | Path) -> int | None:
    """The number that is the whole of the file; ``None`` if it cannot be read or is no number."""
    try:
        return int(read_line(path))
    except (OSError, ValueError):
        return None


def stat(pid: int, proc: Path = PROC) -> Stat | None:
    """The process ``pid`` now; ``None`` if there is none."""
    try:
        return parse_stat(read_line(f"{proc}/{pid}/stat"))
    except OSError:
        return None


def parse_stat(content: bytes) -> Stat | None:
    """``None`` for what is no such line. The name may itself hold blanks and parentheses."""
    head, _, rest = content.rpartition(b")")
    pid, _, name = head.partition(b" (")
    fields = rest.split()
    if len(fields) < _FIELDS_AFTER_NAME:
        return None
    try:
        parent, user, system, threads, start, rss = (int(fields[index]) for index in (1, 11, 12, 17, 19, 21))
        return Stat(
            int(pid), name.decode("utf-8", "replace"), fields[0].decode("ascii", "replace"), parent, user + system,
            threads, start, rss,
        )  # fmt: skip
    except ValueError:
        return None


def pids(proc: Path = PROC) -> list[int]:
    """The processes that there are."""
    return [int(name) for name in os.listdir(proc) if name.isdecimal()]


def open_files(pid: int, proc: Path = PROC) -> int | None:
    """How many file descriptors ``pid`` has open; ``None`` for what may not be seen: another user's process."""
    folder = f"{proc}/{pid}/fd"
    try:
        # From Linux 6.2 on the size of the folder is their number, and nothing needs to be listed.
        return os.stat(folder).st_size or len(os.listdir(folder))
    except OSError:
        return None


def open_files_limit(pid: int, proc: Path = PROC) -> int | None:
    """The soft limit of that number; ``None`` if there is none, or it may not be seen."""
    try:
        return parse_limit(read_bytes(f"{proc}/{pid}/limits"))
    except OSError:
        return None


def parse_limit(content: bytes) -> int | None:
    """The soft limit of open files in a ``/proc/<pid>/limits``."""
    found = _SOFT_LIMIT.search(content)
    return None if found is None or found.group(1) == b"unlimited" else int(found.group(1))
