"""Writers of checkpoint files without torch: what a trainer writes, and what none does."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Floats",
    "Made",
    "archive",
    "entry_of_tensor",
    "global_",
    "put",
    "safetensors",
    "saved",
    "text",
    "torch_file",
]

STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
"""Persistent id of storage ``0``: four float32."""


def text(value: str) -> bytes:
    """Opcodes of a string."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def global_(module: str, name: str) -> bytes:
    """Opcodes of a class or function."""
    return f"c{module}\n{name}\n".encode()


def entry_of_tensor(shape: bytes = b"K\x04\x85", strides: bytes = b"K\x01\x85", offset: bytes = b"K\x00") -> bytes:
    """Opcodes of a float32 tensor in storage ``0``."""
    rest = b"\x89" + global_("collections", "OrderedDict") + b")RtR"
    return global_("torch._utils", "_rebuild_tensor_v2") + b"(" + STORAGE + offset + shape + strides + rest


def archive(entries: list[tuple[str, bytes]], **wrong: int) -> bytes:
    """A zip archive with ``entries``. Of each ``wrong``: ``method`` and ``flags`` of all, ``size`` that the directory
    says, ``header`` offset of all, ``count`` of entries."""
    body, directory = bytearray(), bytearray()
    for name, data in entries:
        raw, crc = name.encode(), zlib.crc32(data)
        method, flags = wrong.get("method", 0), wrong.get("flags", 0)
        size = wrong.get("size", len(data))
        header = wrong.get("header", len(body))
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 0, crc, len(data), size, len(raw), 0)
        body += raw + data
        fields = (20, 20, flags, method, 0, 0, crc, len(data), size, len(raw), 0, 0, 0, 0, 0, header)
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + raw
    count = wrong.get("count", len(entries))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory + end)


def torch_file(pickled: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """What torch.save would have written for a pickle (without its protocol and its end)."""
    storages = {"0": bytes(16)} if storages is None else storages
    held = [(f"archive/data/{key}", raw) for key, raw in storages.items()]
    return archive([("archive/data.pkl", b"\x80\x02" + pickled + b"."), ("archive/byteorder", b"little"), *held])


def safetensors(header: object, data: bytes = b"") -> bytes:
    """A safetensors file; ``header`` may be bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def put(folder: Path, name: str, content: bytes) -> Path:
    """Writes a file."""
    path = folder / name
    path.write_bytes(content)
    return path


@dataclass(frozen=True)
class Floats:
    """A tensor of float32 in a storage of its own; without ``shape`` it has one dimension."""

    values: Sequence[float]
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Made:
    """An object of a class that is called with ``args`` and given ``state``."""

    module: str
    name: str
    args: tuple[object, ...] = ()
    state: object = None


def saved(value: object) -> bytes:
    """What torch.save would write for plain data with :class:`Floats` and :class:`Made` in it."""
    storages: dict[str, bytes] = {}
    return torch_file(_encoded(value, storages), storages)


def _encoded(value: object, storages: dict[str, bytes]) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Floats):
        return _encoded_floats(value, storages)
    if isinstance(value, Made):
        made = global_(value.module, value.name) + _encoded(value.args, storages) + b"R"
        return made if value.state is None else made + _encoded(value.state, storages) + b"b"
    if isinstance(value, dict):
        pairs = b"".join(_encoded(one, storages) for pair in value.items() for one in pair)
        return b"}(" + pairs + b"u"
    assert isinstance(value, (list, tuple)), value
    items = b"(" + b"".join(_encoded(one, storages) for one in value)
    return b"]" + items + b"e" if isinstance(value, list) else items + b"t"


def _encoded_floats(value: Floats, storages: dict[str, bytes]) -> bytes:
    key, count = str(len(storages)), len(value.values)
    storages[key] = struct.pack(f"<{count}f", *value.values)
    shape = (count,) if value.shape is None else value.shape
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    storage = b"(" + text("storage") + global_("torch", "FloatStorage") + text(key) + text("cpu")
    storage += _encoded(count, storages) + b"tQ"
    rest = b"".join(_encoded(one, storages) for one in (0, tuple(shape), tuple(strides[: len(shape)])))
    return global_("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + rest + b"\x89NtR"
