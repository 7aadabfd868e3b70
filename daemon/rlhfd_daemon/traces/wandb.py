"""wandb's offline run files (``run-ID.wandb``): a LevelDB log of protobuf records, of which the history is read.

After 7 bytes (``:W&B``, u16 magic, version) blocks of 32 KiB, counted from the file's start: records of u32 CRC-32 over
type and data, u16 length, u8 type (1 full, 2 first, 3 middle, 4 last) and data, the last up to 6 bytes of a block zero.
Seen with wandb 0.13.11, 0.19.11 and 0.31.0. ``Record.history`` is field 2, ``HistoryRecord.item`` 1 and ``step`` 2,
``HistoryItem.key`` 1, ``nested_key`` 2, ``value_json`` 16 (wandb/proto/wandb_internal.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from zlib import crc32

from rlhfd_daemon.traces.jsonl import parsed
from rlhfd_daemon.traces.protobuf import WireError, fields
from rlhfd_daemon.traces.row import Row, RowMaker
from rlhfd_daemon.traces.source import Source

__all__ = ["Wandb"]

MAGIC = b":W&B"
HEADER_BYTES = 7
BLOCK_BYTES = 32 << 10
MAX_RECORD_BYTES = 64 << 20
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
_HEAD = struct.Struct("<IHB")


class Wandb:
    """A row for each call of ``log`` that counted as a step."""

    name = "wandb offline run"

    def claims(self, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def rows(self, source: Source) -> Iterator[Row]:
        maker = RowMaker()
        for data in _records(source):
            try:
                values = _history(data)
            except WireError as error:
                source.damaged("a record", f"no protobuf message: {error}")
                continue
            row = maker.make(values) if values else None
            if row is not None:
                yield row


def _records(source: Source) -> Iterator[bytes]:
    """Whole records, put together from their parts. After damage reading goes on with the next block."""
    parts: list[bytes] = []
    for kind, data in _parts(source):
        if kind in (FULL, FIRST):
            parts = []
        elif not parts:
            continue  # its beginning is lost
        if kind == 0 or sum(map(len, parts)) > MAX_RECORD_BYTES:
            parts = []
            continue
        parts.append(data)
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []


def _parts(source: Source) -> Iterator[tuple[int, bytes]]:
    """(type, data) of every part with a right checksum; type 0 where something is lost."""
    with source.open() as file:
        start = 0
        while block := source.read(file, BLOCK_BYTES):
            at = HEADER_BYTES if start == 0 else 0
            is_last = len(block) < BLOCK_BYTES
            while at + _HEAD.size <= len(block):
                crc, length, kind = _HEAD.unpack_from(block, at)
                data = block[at + _HEAD.size : at + _HEAD.size + length]
                if crc32(data, crc32(bytes([kind]))) != crc or len(data) < length or not FULL <= kind <= LAST:
                    # The end of a file that is being written may hold half a record, or zeros.
                    if not (is_last and (len(data) < length or not any(block[at:]))):
                        source.damaged(f"byte {start + at}", "wrong checksum; skipped to the next block")
                    yield 0, b""
                    break
                yield kind, data
                at += _HEAD.size + length
            start += len(block)


def _history(data: bytes) -> dict[str, object]:
    """The values of a history record by name; empty for every other record."""
    found: dict[str, object] = {}
    for field, value in fields(data):
        if field != 2 or not isinstance(value, bytes):
            continue
        for number, item in fields(value):
            if number == 1 and isinstance(item, bytes):
                name, text = _item(item)
                found[name] = parsed(text)
    return found


def _item(data: bytes) -> tuple[str, str]:
    names: list[str] = []
    text = ""
    for field, value in fields(data):
        if isinstance(value, bytes):
            if field in (1, 2):
                names.append(value.decode("utf-8", "replace"))
            elif field == 16:
                text = value.decode("utf-8", "replace")
    return "/".join(name for name in names if name), text
