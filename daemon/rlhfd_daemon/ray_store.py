"""Understands what a raylet says of its object store: its command line and its `debug_state.txt`. No I/O."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Raylet", "Store", "parse_debug_state", "parse_raylet"]

MAX_BYTES = 1 << 63
_NODE = re.compile(r"^Node ID: (\w+)$", re.M)
_NUMBERS = {
    "used": re.compile(r"^- pinned objects size: (\d+)\n", re.M),
    "spilled": re.compile(r"^- num bytes currently spilled: (\d+)\n", re.M),
    "spills": re.compile(r"^- cumulative spill requests: (\d+)\n", re.M),
    "restores": re.compile(r"^- cumulative restore requests: (\d+)\n", re.M),
}


class Raylet(NamedTuple):
    """What a raylet was started with; ``capacity`` of its object store in bytes."""

    node_id: str
    log_dir: str
    capacity: int | None


class Store(NamedTuple):
    """Bytes that are held for somebody (which Ray may not evict) and those on disk; objects that have been written to
    disk and read back since the raylet began. ``None`` is what this version of Ray does not say."""

    used: int | None
    spilled: int | None
    spills: int | None
    restores: int | None


def parse_raylet(command_line: str) -> Raylet | None:
    """From ``/proc/<pid>/cmdline``; ``None`` if the session's folder is not in it."""
    pairs = (argument.partition("=") for argument in command_line.split("\0") if argument.startswith("--"))
    options = {name[2:].replace("-", "_"): value for name, equals, value in pairs if equals}
    session, capacity = options.get("session_dir", ""), options.get("object_store_memory", "")
    logs = options.get("log_dir") or (f"{session}/logs" if session else "")
    if not logs.startswith("/"):
        return None
    return Raylet(options.get("node_id", ""), logs, _number(capacity))


def parse_debug_state(text: str, node_id: str) -> Store | None:
    """From ``debug_state.txt``, which a raylet writes every 10 s (``debug_dump_period_milliseconds``); ``None`` if it
    is another raylet's. Read with Ray 2.55: ``LocalObjectManager::DebugString``."""
    node = _NODE.search(text)
    if node is None or node.group(1) != node_id:
        return None
    return Store(**{name: _found(pattern, text) for name, pattern in _NUMBERS.items()})


def _found(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return None if found is None else _number(found.group(1))


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 20 and int(text) < MAX_BYTES else None
