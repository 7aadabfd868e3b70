"""The frame log's record codec: records to bytes, bytes to records and damages. No I/O.

A segment is a 16-byte header, ``RLHFDLOG``, u16 version, u16 flags, u32 reserved, and then records, all little
endian: u32 payload length, u32 CRC-32 of everything after it in the record, u64 id, i64 receive time in unix
nanoseconds, i32 peer uid, i32 peer pid (-1: unknown), payload (the frame's bytes as received).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from rlhfd_daemon.errors import FrameLogError

__all__ = [
    "MAGIC",
    "MAX_PAYLOAD_BYTES",
    "RECORD_HEADER_BYTES",
    "SEGMENT_HEADER",
    "SEGMENT_HEADER_BYTES",
    "TORN_TAIL",
    "Damage",
    "Record",
    "encode_record",
    "header_problem",
    "scan",
]  # fmt: skip

MAGIC = b"RLHFDLOG"
VERSION = 1
MAX_PAYLOAD_BYTES = 1 << 20
MAX_ID = (1 << 56) - 1
TORN_TAIL = "torn tail"

_SEGMENT = struct.Struct("<8sHHI")
SEGMENT_HEADER_BYTES = _SEGMENT.size
SEGMENT_HEADER = _SEGMENT.pack(MAGIC, VERSION, 0, 0)

_RECORD = struct.Struct("<IIQqii")
RECORD_HEADER_BYTES = _RECORD.size
_CHECKED = struct.Struct("<Qqii")  # the part of the record header that the CRC covers
_UNCHECKED = struct.Struct("<II")
_CHECKED_FROM = RECORD_HEADER_BYTES - _CHECKED.size

# A cheap sieve for resynchronising: length <= 1 MiB (its top bytes) and id < 2**56 (its top byte).
_PLAUSIBLE = re.compile(rb"(?s)..[\x00-\x10]\x00.{4}.{7}\x00")
_NOT_ZERO = re.compile(rb"[^\x00]")


class Record(NamedTuple):
    """One received frame. ``id`` grows by one over the log's whole life, from 1; ``received_ns`` is wall time in
    unix nanoseconds; ``uid`` and ``pid`` are the sending process as the kernel gave them, -1 if unknown."""

    id: int
    received_ns: int
    uid: int
    pid: int
    payload: bytes


@dataclass(frozen=True)
class Damage:
    """A stretch of a segment that holds no readable record. ``is_tail``: it reaches the end of the segment; with
    the reason ``TORN_TAIL`` it is a write that was cut short or is still under way. ``path`` is empty when only
    bytes were given."""

    offset: int
    length: int
    reason: str
    is_tail: bool = False
    path: str = ""


def encode_record(record_id: int, received_ns: int, uid: int, pid: int, payload: bytes) -> bytes:
    """The bytes of one record; :class:`FrameLogError` if the payload or the id is out of the format's range."""
    if len(payload) > MAX_PAYLOAD_BYTES or not 0 < record_id <= MAX_ID:
        raise FrameLogError(f"record {record_id} with {len(payload)} payload bytes does not fit the format")
    # uid_t is unsigned and (uid_t)-1 is no user, so every uid and "unknown" share the four bytes without loss.
    checked = _CHECKED.pack(record_id, received_ns, uid if uid < 1 << 31 else uid - (1 << 32), pid) + payload
    return _UNCHECKED.pack(len(payload), crc32(checked)) + checked


def header_problem(buf: bytes) -> str | None:
    """Why these first bytes do not begin a segment this version can read, or ``None`` if they do."""
    if len(buf) < SEGMENT_HEADER_BYTES and SEGMENT_HEADER.startswith(buf):
        return TORN_TAIL
    if len(buf) < SEGMENT_HEADER_BYTES:
        return "bad magic"
    magic, version, flags, _ = _SEGMENT.unpack_from(buf)
    if magic != MAGIC:
        return "bad magic"
    if version != VERSION:
        return f"version {version}, this program reads version {VERSION}"
    return f"unknown flags {flags:#06x}" if flags else None


def scan(buf: bytes, last_id: int = 0) -> Iterator[Record | Damage]:
    """Every readable record of one segment in order, with a :class:`Damage` for each stretch between that is none.

    Never raises, whatever the bytes are. A damaged segment header is reported and reading goes on behind it: the
    records carry their own proof. Records whose id is not above ``last_id``, or the id before, count as damage.
    """
    problem = header_problem(buf)
    if problem is not None:
        length = min(len(buf), SEGMENT_HEADER_BYTES)
        yield Damage(0, length, problem, is_tail=length == len(buf))
    offset = SEGMENT_HEADER_BYTES
    while offset < len(buf):
        record = _record_at(buf, offset, last_id)
        if record is None:
            found = _resynchronise(buf, offset + 1, last_id)
            is_tail = found == len(buf)
            reason = TORN_TAIL if is_tail and _is_cut_short(buf, offset) else "corrupt record"
            yield Damage(offset, found - offset, reason, is_tail)
            offset = found
        else:
            yield record
            offset += RECORD_HEADER_BYTES + len(record.payload)
            last_id = record.id


def _record_at(buf: bytes, offset: int, last_id: int) -> Record | None:
    start = offset + RECORD_HEADER_BYTES
    if start > len(buf):
        return None
    length, checksum, record_id, received_ns, uid, pid = _RECORD.unpack_from(buf, offset)
    end = start + length
    if length > MAX_PAYLOAD_BYTES or end > len(buf) or not last_id < record_id <= MAX_ID:
        return None
    if crc32(memoryview(buf)[offset + _CHECKED_FROM : end]) != checksum:
        return None
    return Record(record_id, received_ns, uid if uid >= -1 else uid + (1 << 32), pid, bytes(buf[start:end]))


def _is_cut_short(buf: bytes, offset: int) -> bool:
    """Whether what is at ``offset`` is the beginning of a record that the bytes end in the middle of."""
    if offset + RECORD_HEADER_BYTES > len(buf):
        return True
    length: int = struct.unpack_from("<I", buf, offset)[0]
    return length <= MAX_PAYLOAD_BYTES and offset + RECORD_HEADER_BYTES + length > len(buf)


def _resynchronise(buf: bytes, offset: int, last_id: int) -> int:
    """The first offset from ``offset`` on that holds a valid record, or the end of ``buf``."""
    while (match := _PLAUSIBLE.search(buf, offset)) is not None:
        offset = match.start()
        if _record_at(buf, offset, last_id) is not None:
            return offset
        # Id 0 is never valid: cross the megabytes of zeros that a power cut leaves in one step.
        id_start = offset + _CHECKED_FROM
        if not any(buf[id_start : id_start + 8]):
            content = _NOT_ZERO.search(buf, id_start + 8)
            if content is None:
                return len(buf)
            offset = max(offset, content.start() - _CHECKED_FROM - 8)
        offset += 1
    return len(buf)
