"""The directory of a zip archive as torch writes it: entries that are stored one behind the other, uncompressed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from rlhfd_daemon.checkpoints.defect import Refused
from rlhfd_daemon.checkpoints.opening import OpenFile

__all__ = ["MAX_DIRECTORY_BYTES", "MAX_ENTRIES", "Entry", "read"]

# APPNOTE.TXT of PKWARE, sections 4.3 and 4.5.3.
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_COMMENT = 0xFFFF
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
MAX_DIRECTORY_BYTES = 24 << 20
MAX_ENTRIES = 150_000
"""One for each storage of a file."""
BOMB_RATIO = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """``offset`` is that of its data in the file, ``size`` their bytes, ``crc`` their CRC-32 as the archive says."""

    name: str
    header: int
    offset: int
    size: int
    crc: int


def read(opened: OpenFile) -> dict[str, Entry]:
    """All entries by name. Raises :class:`Refused` for what is no archive of torch, :class:`Vanished`."""
    offset, length, count, end = _directory(opened)
    if length > MAX_DIRECTORY_BYTES or count > MAX_ENTRIES:
        raise Refused("limit", opened.name, f"an archive with {count} entries in {length} bytes of directory")
    if offset + length > end:
        raise Refused("malformed", opened.name, "the directory of the archive is not where it should be")
    raw = opened.read(offset, length)
    found: dict[str, Entry] = {}
    position, shift = 0, 0
    for _ in range(count):
        entry, shift = _entry(opened, raw, position)
        if entry.name in found:
            raise Refused("malformed", opened.name, f"two entries have the name {entry.name[:200]!r}")
        found[entry.name] = entry
        position += shift
    if position != length:
        raise Refused("malformed", opened.name, "the directory of the archive is longer than its entries")
    _refuse_overlaps(opened, found, offset)
    return found


def _directory(opened: OpenFile) -> tuple[int, int, int, int]:
    """Offset, bytes and count of entries of the directory, and where its end record starts."""
    tail_length = min(opened.size, _END.size + _COMMENT)
    tail = opened.read(opened.size - tail_length, tail_length)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise Refused("truncated", opened.name, "has no end of an archive: cut off, or still being written")
    _, disk, start_disk, here, count, length, offset, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise Refused("malformed", opened.name, "has bytes behind the end of the archive")
    end = opened.size - tail_length + at
    if at >= _END64_LOCATOR.size and tail[at - _END64_LOCATOR.size :].startswith(b"PK\6\7"):
        _, _, where, _ = _END64_LOCATOR.unpack_from(tail, at - _END64_LOCATOR.size)
        if where + _END64.size > end - _END64_LOCATOR.size:
            raise Refused("malformed", opened.name, "the end record of the archive is not where it should be")
        mark, _, _, _, disk, start_disk, here, count, length, offset = _END64.unpack(opened.read(where, _END64.size))
        if mark != b"PK\6\6":
            raise Refused("malformed", opened.name, "the archive has no end record where it says")
        end = where
    elif _FULL16 in (here, count) or _FULL32 in (length, offset):
        raise Refused("malformed", opened.name, "the archive has no end record for its size")
    if disk or start_disk or here != count:
        raise Refused("unsupported", opened.name, "an archive in several parts")
    return offset, length, count, end


def _entry(opened: OpenFile, raw: bytes, position: int) -> tuple[Entry, int]:
    """The entry at ``position`` of the directory, and its bytes there."""
    if position + _CENTRAL.size > len(raw):
        raise Refused("malformed", opened.name, "the directory of the archive ends within an entry")
    fields = _CENTRAL.unpack_from(raw, position)
    mark, flags, method, crc, packed, size = fields[0], fields[3], fields[4], *fields[7:10]
    name_length, extra_length, comment_length, header = *fields[10:13], fields[16]
    total = _CENTRAL.size + name_length + extra_length + comment_length
    if mark != b"PK\1\2" or position + total > len(raw):
        raise Refused("malformed", opened.name, "the directory of the archive has no entry where one should be")
    at = position + _CENTRAL.size
    name = raw[at : at + name_length].decode("utf-8", "replace")
    extra = raw[at + name_length : at + name_length + extra_length]
    size, packed, header = _extended(opened, extra, [size, packed, header])
    if flags & _ENCRYPTED:
        raise Refused("unsupported", opened.name, f"entry {name[:200]!r} is encrypted")
    if method or packed != size:
        bomb = size > BOMB_RATIO * max(packed, 1)
        what = f"of {packed} bytes unpacks to {size}" if bomb else "is compressed, which torch never does"
        raise Refused("unsafe" if bomb else "unsupported", opened.name, f"entry {name[:200]!r} {what}")
    return Entry(name, header, _data(opened, name, raw[at : at + name_length], header), size, crc), total


def _extended(opened: OpenFile, extra: bytes, values: list[int]) -> list[int]:
    """Size, compressed size and header's offset, with those that did not fit taken from the zip64 field."""
    if _FULL32 not in values:
        return values
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            field = extra[position + 4 : position + 4 + length]
            wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            found = [next(wide, -1) if value == _FULL32 else value for value in values]
            if -1 not in found:
                return found
            break
        position += 4 + length
    raise Refused("malformed", opened.name, "an entry without its zip64 sizes")


def _data(opened: OpenFile, name: str, raw_name: bytes, header: int) -> int:
    """Where the data of the entry starts, by its local header, which must be about the same entry."""
    if header + _LOCAL.size > opened.size:
        raise Refused("malformed", opened.name, f"entry {name[:200]!r} lies outside the file")
    fields = _LOCAL.unpack(opened.read(header, _LOCAL.size))
    flags, method, name_length, extra_length = fields[2], fields[3], fields[9], fields[10]
    start: int = header + _LOCAL.size + name_length + extra_length
    if fields[0] != b"PK\3\4" or method or flags & _ENCRYPTED or start > opened.size:
        raise Refused("malformed", opened.name, f"entry {name[:200]!r} is not where the archive says")
    if opened.read(header + _LOCAL.size, name_length) != raw_name:
        raise Refused("malformed", opened.name, f"entry {name[:200]!r} has two names")
    return start


def _refuse_overlaps(opened: OpenFile, found: dict[str, Entry], directory: int) -> None:
    reached, before = 0, ""
    for entry in sorted(found.values(), key=lambda one: one.header):
        if entry.header < reached:
            raise Refused("unsafe", opened.name, f"entries {before[:100]!r} and {entry.name[:100]!r} overlap")
        reached, before = entry.offset + entry.size, entry.name
        if reached > directory:
            kind = "truncated" if reached > opened.size else "malformed"
            raise Refused(kind, opened.name, f"entry {entry.name[:200]!r} goes beyond the data of the archive")
