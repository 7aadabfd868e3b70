"""The protobuf wire format as far as TensorBoard's and wandb's files need it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["WireError", "double", "fields", "signed", "single", "varints"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """Bytes that are no message."""


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in order: an int for varints, the raw bytes for everything else, fixed numbers included.

    :raises WireError: the message ends early or holds a group.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == BYTES:
            size, at = _varint(data, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise WireError(f"wire type {kind}")
        if at + size > len(data):
            raise WireError("cut short")
        yield key >> 3, data[at : at + size]
        at += size


def signed(value: int) -> int:
    """A varint as int64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def double(value: int | bytes) -> float | None:
    """A fixed 64-bit number as a float, ``None`` if the field is of another type."""
    return float(struct.unpack("<d", value)[0]) if isinstance(value, bytes) and len(value) == 8 else None


def single(value: int | bytes) -> float | None:
    """A fixed 32-bit number as a float, ``None`` if the field is of another type."""
    return float(struct.unpack("<f", value)[0]) if isinstance(value, bytes) and len(value) == 4 else None


def varints(data: bytes) -> Iterator[int]:
    """The numbers of a packed field."""
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise WireError("no varint")
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
