"""What torch.save wrote before 1.6, or with ``_use_new_zipfile_serialization=False``: five pickles, then storages."""

from __future__ import annotations

from dataclasses import replace

from rlhfd_daemon.checkpoints import pickle_tree
from rlhfd_daemon.checkpoints.defect import Refused
from rlhfd_daemon.checkpoints.opening import OpenFile
from rlhfd_daemon.checkpoints.pickle_values import Values
from rlhfd_daemon.checkpoints.tensor import ITEM_BYTES

__all__ = ["MAGIC", "read"]

MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py
PROTOCOL = 1001
FEW, TREE, KEYS = 1000, 1_500_000, 300_000
"""Opcodes of the pickles that say little, of the tree, which is read twice, and of the list of storages."""


def read(opened: OpenFile) -> pickle_tree.Tree:
    """The tree of a file that starts with a pickle. Raises :class:`Refused` for one that torch did not write, after a
    look at what it would run."""
    data = opened.read(0, min(opened.size, pickle_tree.MAX_BYTES))
    first = pickle_tree.read(data, Values(opened.name, {}), 0, FEW)
    if first.value != MAGIC:
        pickle_tree.refuse_unsafe(first.globals, opened.name)
        raise Refused("unsupported", opened.name, "a bare pickle, not a file of torch")
    protocol = pickle_tree.read(data, Values(opened.name, {}), first.end, FEW)
    system = pickle_tree.read(data, Values(opened.name, {}), protocol.end, FEW)
    if protocol.value != PROTOCOL or not isinstance(system.value, dict) or not system.value.get("little_endian"):
        raise Refused("unsupported", opened.name, "a file of torch of another protocol or byte order")
    values = Values(opened.name, {})
    end = pickle_tree.read(data, values, system.end, TREE).end
    keys = pickle_tree.read(data, Values(opened.name, {}), end, KEYS)
    placed = Values(opened.name, _storages(opened, values, keys))
    again = pickle_tree.read(data, placed, system.end, TREE)
    parts = (again, first, protocol, system, keys)
    return replace(again, defects=tuple(one for part in parts for one in part.defects))


def _storages(opened: OpenFile, values: Values, keys: pickle_tree.Tree) -> dict[str, tuple[int, int]]:
    """The storages follow in the order of ``keys``, each with its count of elements before it."""
    if not isinstance(keys.value, list):
        raise Refused("malformed", opened.name, "has no list of storages")
    found: dict[str, tuple[int, int]] = {}
    position = keys.end
    for key in keys.value:
        storage = values.keys.get(key) if isinstance(key, str) else None
        if storage is None or storage.dtype is None:
            raise Refused("unsupported", opened.name, "holds a storage of a type that is not read")
        count = int.from_bytes(opened.read(position, 8), "little")
        size = count * ITEM_BYTES[storage.dtype]
        if position + 8 + size > opened.size:
            raise Refused("truncated", opened.name, f"ends before storage {key[:100]} does")
        found[key] = (position + 8, size)
        position += 8 + size
    return found
