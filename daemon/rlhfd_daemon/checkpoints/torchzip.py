"""What torch.save wrote (.pt, .bin, .pth): the tree of its ``data.pkl``, and where in the file each tensor is."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from rlhfd_daemon.checkpoints import archive, legacy, pickle_tree
from rlhfd_daemon.checkpoints.contents import Contents, shared
from rlhfd_daemon.checkpoints.defect import Defect, Refused
from rlhfd_daemon.checkpoints.opening import OpenFile
from rlhfd_daemon.checkpoints.pickle_values import Opaque, Values
from rlhfd_daemon.checkpoints.tensor import Tensor

__all__ = ["MAX_DEPTH", "named", "read"]

MAX_DEPTH = 64
MAX_NAME = 4096
MAX_NAMES = 16 << 20
"""Bytes of the names of all tensors of a file."""
MAX_TENSORS = 100_000
_PICKLE = "/data.pkl"


def read(opened: OpenFile) -> Contents:
    """The tensors of one file, named by their path in its tree (``module.model.norm.weight``); ``metadata`` is the
    tree. A file that cannot be read has one defect and no tensors. Raises :class:`Vanished`.
    """
    identities = {opened.name: opened.identity}
    try:
        tree = _tree(opened)
        tensors, defects = named(tree.value, opened.name)
        opened.check()
    except Refused as refused:
        opened.check()
        return Contents(defects=(refused.defect,), identities=identities)
    return Contents(tuple(tensors), tree.value, (*tree.defects, *defects, *shared(tensors)), identities)


def _tree(opened: OpenFile) -> pickle_tree.Tree:
    if opened.size == 0:
        raise Refused("truncated", opened.name, "is empty")
    start = opened.read(0, min(4, opened.size))
    if start[:1] == b"\x80" and start[1:2] <= b"\5":
        return legacy.read(opened)
    if start != b"PK\3\4":
        raise Refused("malformed", opened.name, "does not start as a file of torch does")
    entries = archive.read(opened)
    roots = [name[: -len(_PICKLE)] for name in entries if name.endswith(_PICKLE)]
    if len(roots) != 1 or "/" in roots[0]:
        raise Refused("malformed", opened.name, f"has {len(roots)} entries data.pkl")
    root = roots[0]
    if f"{root}/constants.pkl" in entries:
        raise Refused("unsupported", opened.name, "a TorchScript archive, which holds code")
    order = entries.get(f"{root}/byteorder")
    if order is not None and opened.read(order.offset, min(order.size, 16)) != b"little":
        raise Refused("unsupported", opened.name, "was written on a big-endian machine")
    return _unpickled(opened, entries, root)


def _unpickled(opened: OpenFile, entries: Mapping[str, archive.Entry], root: str) -> pickle_tree.Tree:
    entry = entries[root + _PICKLE]
    if entry.size > pickle_tree.MAX_BYTES:
        raise Refused("limit", opened.name, f"a data.pkl of {entry.size} bytes, {pickle_tree.MAX_BYTES} are read")
    data = opened.read(entry.offset, entry.size)
    prefix = f"{root}/data/"
    storages = {name[len(prefix) :]: (one.offset, one.size) for name, one in entries.items() if name.startswith(prefix)}
    values = Values(opened.name, storages)
    tree = pickle_tree.read(data, values)
    if tree.end != len(data):
        raise Refused("malformed", opened.name, "has bytes behind its pickle")
    defects = list(tree.defects)
    if zlib.crc32(data) != entry.crc:
        defects.append(Defect("inconsistent", opened.name, "data.pkl has another CRC than the archive says"))
    return replace(tree, defects=tuple(defects))


def named(value: object, file: str) -> tuple[list[Tensor], list[Defect]]:
    """All tensors in ``value``, named by their path; each container is walked once, however often it is there."""
    tensors: list[Tensor] = []
    seen: set[int] = set()
    paths, walks = [""], [iter([("", value)])]
    names = 0
    while walks:
        name, one = next(walks[-1], ("", None))
        if one is None:
            walks.pop()
            paths.pop()
            continue
        path = f"{paths[-1]}.{name}" if paths[-1] else name
        if isinstance(one, Tensor):
            tensors.append(replace(one, name=path))
            names += len(path)
        elif id(one) not in seen:
            seen.add(id(one))
            walks.append(_inside(one))
            paths.append(path)
        if len(walks) > MAX_DEPTH or len(path) > MAX_NAME or names > MAX_NAMES or len(tensors) > MAX_TENSORS:
            what = f"holds more than {MAX_TENSORS} tensors, longer names or deeper nesting than is read"
            return tensors, [Defect("limit", file, what, path[:200])]
    return tensors, []


def _inside(one: object) -> Iterator[tuple[str, object]]:
    """The containers and tensors directly in a container, with the name that each has there."""
    pairs: Iterable[tuple[object, object]] = ()
    if isinstance(one, dict):
        pairs = one.items()
    elif isinstance(one, Opaque):
        pairs = (("args", one.args), ("state", one.state), ("items", one.items))
    elif isinstance(one, (list, tuple)):
        pairs = enumerate(one)
    for key, item in pairs:
        if isinstance(item, (dict, list, tuple, Opaque, Tensor)):
            yield (key if isinstance(key, str) else str(key))[: MAX_NAME + 1], item
