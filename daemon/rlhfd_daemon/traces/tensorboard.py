"""TensorBoard event files: TFRecord frames of ``Event`` messages, of which the scalars are read.

tensorflow/core/util/event.proto, framework/summary.proto and tensor.proto; a record is u64 length, masked CRC-32C of
it, the data, masked CRC-32C of that, little endian (tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from rlhfd_daemon.traces.protobuf import WireError, double, fields, signed, single, varints
from rlhfd_daemon.traces.row import Row, seconds
from rlhfd_daemon.traces.source import Source

__all__ = ["TensorBoard", "masked_crc32c"]

MAX_RECORD_BYTES = 64 << 20
MAX_CHECKED_BYTES = 64 << 10  # scalars are smaller; of images and texts nothing is used
_HEAD, _CRC = struct.Struct("<QI"), struct.Struct("<I")
_FORMATS = {1: "f", 2: "d", 3: "i", 4: "B", 5: "h", 6: "b", 9: "q", 19: "e"}  # tensor types: float, double, int32, ...


def _table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return tuple(found)


_CRC32C = _table()


class Scalar(NamedTuple):
    """One value of one event."""

    tag: str
    value: float


class TensorBoard:
    """Scalars of one step, each an event of its own, become one row as long as they follow each other."""

    name = "TensorBoard events"

    def claims(self, head: bytes) -> bool:
        """A record's length with its right checksum."""
        return len(head) >= _HEAD.size and _HEAD.unpack_from(head)[1] == masked_crc32c(head[:8])

    def rows(self, source: Source) -> Iterator[Row]:
        step: int | None = None
        time: float | None = None
        metrics: dict[str, float] = {}
        for event_step, wall_time, scalars in _events(source):
            if metrics and (event_step != step or any(scalar.tag in metrics for scalar in scalars)):
                yield Row(step, time, metrics)
                metrics = {}
            if scalars and not metrics:
                step, time = event_step, wall_time
            metrics.update(scalars)
        if metrics:
            yield Row(step, time, metrics)


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: Castagnoli's CRC, turned by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _events(source: Source) -> Iterator[tuple[int, float | None, list[Scalar]]]:
    """(step, wall time, scalars) of every event that can be read."""
    for number, data in _records(source):
        try:
            yield _event(data)
        except (WireError, struct.error) as error:
            source.damaged(f"record {number}", f"no event: {error}")


def _records(source: Source) -> Iterator[tuple[int, bytes]]:
    """(number from 1, data). What is unfinished at the end is being written."""
    with source.open() as file:
        number = 0
        while len(head := source.read(file, _HEAD.size)) == _HEAD.size:
            number += 1
            length, crc = _HEAD.unpack(head)
            if masked_crc32c(head[:8]) != crc or length > MAX_RECORD_BYTES:
                source.damaged(f"record {number}", "its length has a wrong checksum; the rest cannot be read")
                return
            data = source.read(file, length + _CRC.size)
            if len(data) < length + _CRC.size:
                return
            data, check = data[:length], data[length:]
            if length > MAX_CHECKED_BYTES:
                continue
            if masked_crc32c(data) != _CRC.unpack(check)[0]:
                source.damaged(f"record {number}", "wrong checksum")
                continue
            yield number, data


def _event(data: bytes) -> tuple[int, float | None, list[Scalar]]:
    step, wall_time = 0, None
    scalars: list[Scalar] = []
    for field, value in fields(data):
        if field == 1:
            wall_time = seconds(double(value))
        elif field == 2 and isinstance(value, int):
            step = signed(value)
        elif field == 5 and isinstance(value, bytes):
            scalars += [found for number, one in fields(value) if number == 1 and (found := _scalar(one)) is not None]
    return step, wall_time, scalars


def _scalar(data: int | bytes) -> Scalar | None:
    """Of a ``Summary.Value``: tag 1, simple_value 2, tensor 8."""
    if not isinstance(data, bytes):
        return None
    tag, number = "", None
    for field, value in fields(data):
        if field == 1 and isinstance(value, bytes):
            tag = value.decode("utf-8", "replace")
        elif field == 2:
            number = single(value)
        elif field == 8 and isinstance(value, bytes):
            number = _tensor(value)
    return None if number is None or not tag else Scalar(tag, number)


def _tensor(data: bytes) -> float | None:
    """The only number of a ``TensorProto``: its type 1, raw content 4, or the field of its type; ``None`` if it is a
    text or has more than one element."""
    kind, content, listed = 0, b"", []
    for field, value in fields(data):
        if field == 1 and isinstance(value, int):
            kind = value
        elif field == 4 and isinstance(value, bytes):
            content = value
        elif field in (5, 6) and isinstance(value, bytes):
            form = "f" if field == 5 else "d"
            listed += [one for (one,) in struct.iter_unpack(f"<{form}", value)]
        elif field in (7, 10):
            listed += [signed(one) for one in ([value] if isinstance(value, int) else varints(value))]
    form = _FORMATS.get(kind, "")
    if form and len(content) == struct.calcsize(f"<{form}"):
        return float(struct.unpack(f"<{form}", content)[0])
    return float(listed[0]) if form and len(listed) == 1 else None
