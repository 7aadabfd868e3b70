"""safetensors files and sets of them with an index, by the rules of https://github.com/huggingface/safetensors."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from rlhfd_daemon.checkpoints.contents import SHOWN, Contents
from rlhfd_daemon.checkpoints.defect import Defect, Refused, Vanished
from rlhfd_daemon.checkpoints.json_limits import MAX_BYTES, MAX_VALUES, too_many_values
from rlhfd_daemon.checkpoints.opening import Folder, Identity, OpenFile
from rlhfd_daemon.checkpoints.tensor import ITEM_BYTES, Tensor

__all__ = ["DTYPES", "INDEX_SUFFIX", "MAX_HEADER_BYTES", "read", "read_index"]

INDEX_SUFFIX = ".safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""Of the format; what is read here is less."""
MAX_SHARDS = 10_000
MAX_DIMENSIONS = 64
MAX_NAME = 4096
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip
OTHER_BITS = {
    "U64": 64, "U32": 32, "U16": 16, "C64": 64, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
"""Bits of one element of the types that are checked and not read."""


def read(opened: OpenFile) -> Contents:
    """The tensors of one file in the order of their data; a file that breaks a rule has one defect and no tensors.

    Raises :class:`Vanished`.
    """
    identities = {opened.name: opened.identity}
    try:
        header, start = _header(opened)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(one, str) for one in metadata.values()):
            raise Refused("malformed", opened.name, "__metadata__ is not a map of strings")
        tensors, defects = _tensors(opened, header, start)
        opened.check()
    except Refused as refused:
        opened.check()
        return Contents(defects=(refused.defect,), identities=identities)
    return Contents(tuple(tensors), metadata, tuple(defects), identities)


def _header(opened: OpenFile) -> tuple[dict[str, Any], int]:
    """The header's map, and where the data starts."""
    if opened.size < 8:
        raise Refused("truncated", opened.name, f"has {opened.size} bytes, a header has at least 8")
    length = int.from_bytes(opened.read(0, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise Refused("malformed", opened.name, f"says that its header has {length} bytes", limit=MAX_HEADER_BYTES)
    if 8 + length > opened.size:
        raise Refused("truncated", opened.name, f"has {opened.size} bytes, its header alone {8 + length}")
    if length > MAX_BYTES:
        raise Refused("limit", opened.name, f"its header has {length} bytes, {MAX_BYTES} are read")
    raw = opened.read(8, length)
    if not raw.startswith(b"{"):
        raise Refused("malformed", opened.name, "its header does not start with {")
    return _json(raw, opened.name), 8 + length


def _json(raw: bytes, file: str) -> dict[str, Any]:
    """A JSON map without duplicate keys, of bounded size and depth."""
    if too_many_values(raw):
        raise Refused("limit", file, f"holds more than {MAX_VALUES} values of JSON")

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise Refused("malformed", file, f"has a key twice: {twice[:200]!r}")
        return found

    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=distinct, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused("malformed", file, f"is not JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise Refused("malformed", file, "is not a JSON map")
    return found


def _tensors(opened: OpenFile, header: dict[str, Any], start: int) -> tuple[list[Tensor], list[Defect]]:
    entries = []
    for name, entry in header.items():
        dtype, shape, (begin, end) = _entry(opened, name, entry)
        entries.append((begin, end, name, dtype, shape))
    entries.sort(key=lambda one: one[:3])
    reached = 0
    tensors: list[Tensor] = []
    defects: list[Defect] = []
    for begin, end, name, dtype, shape in entries:
        if begin != reached:
            what = "overlaps the tensor before it" if begin < reached else "leaves a hole before it"
            raise Refused("malformed", opened.name, f"its data {what}", name[:200], begin=begin, before=reached)
        reached = end
        if start + end > opened.size:
            raise Refused("truncated", opened.name, "ends before its data does", name[:200], size=opened.size)
        if dtype in DTYPES:
            tensors.append(Tensor(name, DTYPES[dtype], shape, opened.name, start + begin))
        elif len(defects) < SHOWN:
            defects.append(Defect("unsupported", opened.name, f"the type {dtype} is not read", name))
    if start + reached != opened.size:
        raise Refused("malformed", opened.name, "has bytes that belong to no tensor", end=start + reached)
    return tensors, defects


def _entry(opened: OpenFile, name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """The type, the shape and the offsets; every rule about one entry alone."""
    shown = name[:200]

    def refuse(summary: str) -> NoReturn:
        raise Refused("malformed", opened.name, summary, shown)

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"} or len(name) > MAX_NAME:
        refuse("its entry is not a type, a shape and offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or (dtype not in DTYPES and dtype not in OTHER_BITS):
        refuse(f"its type is not known: {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(_is_count(one) for one in shape):
        refuse("its shape is not a list of counts")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(one) for one in offsets):
        refuse("its offsets are not two counts")
    elements = math.prod(shape)
    if elements >= 1 << 63:
        refuse("its shape is larger than any file")
    bits = elements * (ITEM_BYTES[DTYPES[dtype]] * 8 if dtype in DTYPES else OTHER_BITS[dtype])
    begin, end = offsets
    if (end - begin) * 8 != bits:
        refuse(f"has {end - begin} bytes, its shape and type need {math.ceil(bits / 8)}")
    return dtype, tuple(shape), (begin, end)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def read_index(folder: Folder, name: str) -> Contents:
    """The tensors of all shards that the index ``name`` of ``folder`` lists; ``metadata`` is that of the index.

    Raises :class:`Vanished` if the index itself, or a shard while it is read, goes away.
    """
    with folder.file(name) as opened:
        identities: dict[str, Identity] = {opened.name: opened.identity}
        try:
            if opened.size > MAX_BYTES:
                raise Refused("limit", opened.name, f"has {opened.size} bytes, {MAX_BYTES} are read")
            index = _json(opened.read(0, opened.size), opened.name)
            opened.check()
            places, shards = _weight_map(index, opened.name)
        except Refused as refused:
            opened.check()
            return Contents(defects=(refused.defect,), identities=identities)
        where = opened.name
    tensors: list[Tensor] = []
    defects: list[Defect] = []
    for shard in shards:
        found = _shard(folder, shard)
        identities.update(found.identities)
        defects.extend(found.defects)
        if found.identities:
            defects.extend(_misplaced(where, shard, found, places))
        tensors.extend(one for one in found.tensors if places.get(one.name) == shard)
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    held = sum(one.nbytes for one in tensors)
    if total is not None and not defects and total != held:
        defects.append(Defect("inconsistent", where, f"total_size is {str(total)[:40]}, the shards hold {held} bytes"))
    return Contents(tuple(tensors), metadata, tuple(defects), identities)


def _weight_map(index: Mapping[str, Any], file: str) -> tuple[dict[str, str], list[str]]:
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise Refused("malformed", file, "weight_map is not a map of tensors to files")
    shards = sorted(set(places.values()))
    if len(shards) > MAX_SHARDS:
        raise Refused("limit", file, f"names more than {MAX_SHARDS} files")
    wrong = next((one for one in shards if "/" in one or not one.endswith(".safetensors")), None)
    if wrong is not None:
        raise Refused("malformed", file, f"names a file that is no shard beside it: {wrong[:200]!r}")
    return places, shards


def _shard(folder: Folder, shard: str) -> Contents:
    try:
        opened = folder.file(shard)
    except Vanished:
        return Contents(defects=(Defect("missing", shard, "the index names it and it is not there"),))
    except Refused as refused:
        return Contents(defects=(refused.defect,))
    with opened:
        return read(opened)


def _misplaced(index: str, shard: str, found: Contents, places: Mapping[str, str]) -> list[Defect]:
    """Where a shard that could be read and the index do not agree."""
    if not found.tensors and found.defects:
        return []
    unread = {one.tensor for one in found.defects}
    held = {one.name for one in found.tensors} | unread
    lost = sorted(name for name, place in places.items() if place == shard and name not in held)
    wrong = sorted(name for name in held if places.get(name, shard) != shard)
    extra = sorted(name for name in held if name and name not in places)
    said = (
        ("missing", lost, "not in the file that the index names"),
        ("inconsistent", wrong, "in another file than the index names"),
        ("inconsistent", extra, "not in the index"),
    )
    return [
        Defect(kind, shard, f"{len(names)} tensors are {what}", names[0], {"tensors": names[:SHOWN], "index": index})
        for kind, names, what in said
        if names
    ]
