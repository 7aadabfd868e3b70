"""Bring a frame-log directory into a state that can be appended to, whatever a crash or a disk left there."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from rlhfd_daemon.segment import RECORD_HEADER_BYTES, TORN_TAIL, Damage, scan
from rlhfd_daemon.segment_files import SegmentFile, check, list_segments, load, quarantine

__all__ = ["Recovery", "recover"]

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Recovery:
    """``last`` is the newest segment, whole and with no tail, or ``None``; ``next_id`` is above every id that the
    log has or may have given out; ``quarantined`` counts files, ``corrupt`` damaged stretches of ``last``."""

    last: SegmentFile | None
    next_id: int
    quarantined: int
    corrupt: int


def recover(directory: Path) -> Recovery:
    """Set unreadable segments aside, cut the torn tail of the newest one, find the next id. Never raises
    ``OSError``: what cannot be repaired is logged and passed by. A missing directory is an empty log."""
    last: SegmentFile | None = None
    next_id = 1
    quarantined = corrupt = 0
    for segment in reversed(_listed(directory)):
        problem = check(segment.path)
        if problem is None and last is None:
            try:
                last, last_id, corrupt = _repair(segment)
                next_id = max(next_id, last_id + 1)
            except OSError as error:
                problem = f"cannot be repaired: {error.strerror}"
        if problem is not None:
            quarantined += 1
            _set_aside(segment, problem)
            # Its ids cannot be read, but it cannot have held more records than this.
            next_id = max(next_id, segment.first_id + segment.size // RECORD_HEADER_BYTES)
    return Recovery(last, next_id, quarantined, corrupt)


def _listed(directory: Path) -> list[SegmentFile]:
    try:
        return list_segments(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        log.error("frame log directory cannot be read", directory=str(directory), error=str(error))
        return []


def _repair(segment: SegmentFile) -> tuple[SegmentFile, int, int]:
    """The segment without its tail, its last id (the one before its first if it is empty), its damages."""
    last_id = segment.first_id - 1
    corrupt = 0
    buf = load(segment.path)
    size = len(buf)
    for item in scan(buf):
        if not isinstance(item, Damage):
            last_id = max(last_id, item.id)
            continue
        if item.reason != TORN_TAIL:
            corrupt += 1
        log.warning("frame log is damaged", path=str(segment.path), **_described(item))
        if item.is_tail:
            os.truncate(segment.path, item.offset)
            size = item.offset
    return replace(segment, size=size), last_id, corrupt


def _described(damage: Damage) -> dict[str, int | str]:
    return {"offset": damage.offset, "length": damage.length, "reason": damage.reason}


def _set_aside(segment: SegmentFile, problem: str) -> None:
    try:
        moved_to = quarantine(segment.path)
    except OSError as error:
        log.error("bad segment cannot be moved", path=str(segment.path), problem=problem, error=str(error))
    else:
        log.error("bad segment set aside", path=str(segment.path), problem=problem, moved_to=str(moved_to))
