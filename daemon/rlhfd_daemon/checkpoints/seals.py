"""Whether a file ends as its format demands: what was cut off in the middle of its writing does not."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlhfd_daemon.checkpoints.defect import Refused, Vanished
from rlhfd_daemon.checkpoints.json_limits import MAX_BYTES, too_many_values
from rlhfd_daemon.checkpoints.opening import Folder, OpenFile

__all__ = ["Seal", "Stamp", "seal_of"]

MAX_TEXT_BYTES = 256
MAX_DEMANDS = 10_000
LATEST = ("latest", "latest_universal")

# The end of the central directory without a comment, see APPNOTE.TXT of PKWARE, 4.3.16; that of zip64 has a locator.
_END = struct.Struct("<4sHHHHIIH")
_LOCATOR_BYTES = 20
_FULL = 0xFFFFFFFF

Stamp = tuple[int, int, int, int, str]
"""Device, inode, bytes, time of change and name: as long as they are the same, so is the seal."""


@dataclass(frozen=True, slots=True)
class Seal:
    """``whole``: it ends as its format demands; ``None``: not known, or of no format. ``demands`` are the files that an
    index names, ``text`` is what is in a ``latest``."""

    whole: bool | None = None
    demands: tuple[str, ...] = ()
    text: str = ""


def seal_of(folder: Folder, name: str) -> Seal:
    """That of the file ``name`` in ``folder``. One that vanishes, or is refused, has one that says nothing."""
    reader = _reader(name)
    if reader is None:
        return Seal()
    try:
        with folder.file(name) as opened:
            return reader(opened)
    except Vanished:
        return Seal()
    except Refused as refused:
        return Seal(False if refused.defect.kind in ("truncated", "limit") else None)


def _reader(name: str) -> Callable[[OpenFile], Seal] | None:
    if name in LATEST:
        return _text
    if name.endswith((".pt", ".bin", ".pth")):
        return _torch
    if name.endswith(".safetensors"):
        return _safetensors
    if name.endswith(".index.json") or name in ("metric.json", "config.json", "adapter_config.json"):
        return _json
    return None


def _text(opened: OpenFile) -> Seal:
    content = opened.read(0, min(opened.size, MAX_TEXT_BYTES)).decode("utf-8", "replace")
    return Seal(bool(content.strip()), text=content.strip())


def _torch(opened: OpenFile) -> Seal:
    """The central directory is written last."""
    if opened.size < _END.size:
        return Seal(False)
    if opened.read(0, 1) == b"\x80":  # a bare pickle, as torch wrote them before 1.6
        return Seal(None)
    signature, *_, length, offset, comment = _END.unpack(opened.read(opened.size - _END.size, _END.size))
    if signature != b"PK\x05\x06" or comment:
        return Seal(False)
    before = opened.size - _END.size
    if offset == _FULL or length == _FULL:
        located = before >= _LOCATOR_BYTES and opened.read(before - _LOCATOR_BYTES, 4) == b"PK\x06\x07"
        return Seal(located)
    return Seal(offset + length <= before)


def _safetensors(opened: OpenFile) -> Seal:
    if opened.size < 8:
        return Seal(False)
    (length,) = struct.unpack("<Q", opened.read(0, 8))
    if 8 + length > opened.size:
        return Seal(False)
    if length > MAX_BYTES:
        return Seal(None)
    raw = opened.read(8, length)
    if too_many_values(raw):
        return Seal(None)
    header = _parsed(raw)
    if not isinstance(header, dict):
        return Seal(False)
    header.pop("__metadata__", None)
    try:
        end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except (TypeError, KeyError, ValueError, IndexError, OverflowError):
        return Seal(False)
    return Seal(8 + length + end == opened.size)


def _json(opened: OpenFile) -> Seal:
    if opened.size > MAX_BYTES:
        return Seal(None)
    raw = opened.read(0, opened.size)
    if too_many_values(raw):
        return Seal(None)
    content = _parsed(raw)
    if not isinstance(content, dict):
        return Seal(False)
    named = content.get("weight_map")
    if not isinstance(named, dict):
        return Seal(True)
    files = {file for file in named.values() if isinstance(file, str) and file and "/" not in file}
    return Seal(True, tuple(sorted(files)[:MAX_DEMANDS]))


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
