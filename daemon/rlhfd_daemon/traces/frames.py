"""rlhfd's own frame log: a folder of segments, or one segment, unpacked by content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.recording import read
from rlhfd_daemon.segment import MAGIC, TORN_TAIL, Damage, Record, scan
from rlhfd_daemon.traces.source import Source

__all__ = ["claims", "is_log", "records"]

MAX_SEGMENT_BYTES = 2 << 30


def claims(head: bytes) -> bool:
    """Whether a file that begins so is a segment."""
    return head.startswith(MAGIC)


def is_log(folder: Path) -> bool:
    """Whether segments are in ``folder``."""
    return any(folder.glob("frames-*.log"))


def records(path: Path) -> Iterator[Record | Damage]:
    """What :func:`~rlhfd_daemon.recording.read` gives, whatever the name of a packed segment is."""
    if path.is_dir():
        yield from read(path)
        return
    source = Source(path)
    with source.open() as file:
        data = source.read(file, MAX_SEGMENT_BYTES + 1)
    if len(data) > MAX_SEGMENT_BYTES:
        raise TraceError(f"{path}: a segment of more than {MAX_SEGMENT_BYTES >> 30} GiB")
    for item in scan(data):
        if isinstance(item, Record) or item.reason != TORN_TAIL:
            yield item
