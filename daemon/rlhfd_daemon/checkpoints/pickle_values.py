"""What stands for the objects of a pickle: plain data, tensors, and stand-ins that can do nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhfd_daemon.checkpoints.contents import SHOWN
from rlhfd_daemon.checkpoints.defect import Defect
from rlhfd_daemon.checkpoints.reading import is_contiguous, span
from rlhfd_daemon.checkpoints.tensor import ITEM_BYTES, Tensor

__all__ = ["Opaque", "Storage", "Values"]

MAX_DIMENSIONS = 64
EXPANDED_BYTES = 64 << 20
"""A tensor may stand for more bytes than its storage has (torch's ``expand``), up to this."""
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
}  # fmt: skip
_REBUILD = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
_SEQUENCES = {"set", "frozenset", "list", "deque", "tuple"}


@dataclass(slots=True, eq=False, repr=False)
class Opaque:
    """Something that is not plain data: what it was to be made of, and nothing done with it.

    ``args`` is what its class or function would have been called with (``None``: it was only named), ``state`` what
    would have been set on it, ``items`` what would have been appended or, as pairs, set.
    """

    module: str
    name: str
    args: object = None
    state: object = None
    items: list[object] | None = None

    def __repr__(self) -> str:
        return f"<{self.module}.{self.name}>"


@dataclass(frozen=True, slots=True)
class Storage:
    """The bytes that tensors are views of; ``dtype`` is ``None`` for a type that is not read."""

    key: str
    dtype: str | None
    elements: int


class Values:
    """Turns what a pickle would call into values. ``storages``: offset in ``file`` and bytes of each storage."""

    def __init__(self, file: str, storages: Mapping[str, tuple[int, int]]) -> None:
        self.file = file
        self.storages = storages
        self.defects: list[Defect] = []
        self.keys: dict[str, Storage] = {}

    def persistent(self, said: object) -> object:
        """What a persistent id stands for."""
        if not isinstance(said, tuple) or len(said) not in (5, 6) or said[0] != "storage":
            return Opaque("", "persistent id", said)
        kind, key, elements = said[1], said[2], said[4]
        if not isinstance(kind, Opaque) or not isinstance(key, str) or not _is_count(elements):
            return Opaque("", "persistent id", said)
        storage = Storage(key, _STORAGES.get(kind.name), elements)
        self.keys.setdefault(key, storage)
        return storage

    def called(self, what: Opaque, args: tuple[Any, ...]) -> object:
        """What stands for ``what(*args)``; no work that grows with the size of the arguments is done here."""
        if what.args is not None:
            return Opaque("", "call", (what, args))
        if what.module == "torch._utils" and what.name in _REBUILD:
            return self._tensor(what, args)
        if what.module == "torch._utils" and what.name.startswith("_rebuild_parameter"):
            return args[0] if args and isinstance(args[0], Tensor) else Opaque(what.module, what.name, args)
        if what.module == "torch._tensor" and what.name == "_rebuild_from_type_v2" and len(args) == 4:
            function, _, inner, _ = args
            if isinstance(function, Opaque) and isinstance(inner, tuple) and function.name != what.name:
                return self.called(function, inner)
        if what.module == "torch" and what.name == "Size" and len(args) == 1 and isinstance(args[0], (tuple, list)):
            return args[0]
        if what.module == "collections" and what.name in ("OrderedDict", "defaultdict", "Counter"):
            return self._dict(what, args)
        if what.module in ("builtins", "__builtin__", "collections") and what.name in _SEQUENCES:
            return args[0] if args and isinstance(args[0], (list, tuple)) else []
        return Opaque(what.module, what.name, args)

    def _dict(self, what: Opaque, args: tuple[Any, ...]) -> object:
        given = args[-1] if args else None
        if given is None or isinstance(given, Opaque):  # empty, or the factory of a defaultdict
            return {}
        return given if isinstance(given, dict) else Opaque(what.module, what.name, args)

    def _tensor(self, what: Opaque, args: tuple[Any, ...]) -> object:
        stand_in = Opaque(what.module, what.name, args)
        if len(args) < 4 or not isinstance(args[0], Storage):
            return self._defective(stand_in, "malformed", "a tensor without a storage")
        storage, offset, shape, strides = args[:4]
        metadata = args[6] if len(args) > 6 and what.name.endswith("v2") else None
        dtype = storage.dtype
        if what.name.endswith("v3"):
            dtype = args[6].name if len(args) > 6 and isinstance(args[6], Opaque) else None
            metadata = args[7] if len(args) > 7 else None
        if dtype not in ITEM_BYTES or metadata:
            return self._defective(stand_in, "unsupported", f"a tensor of a type that is not read: {dtype}")
        if not (_is_shape(shape) and _is_shape(strides) and len(shape) == len(strides) and _is_count(offset)):
            return self._defective(stand_in, "malformed", "the shape or the strides of a tensor are not counts")
        if math.prod(shape) >= 1 << 63:
            return self._defective(stand_in, "malformed", "the shape of a tensor is larger than any file")
        plain = () if is_contiguous(tuple(shape), tuple(strides)) else tuple(strides)
        item = ITEM_BYTES[dtype]
        tensor = Tensor("", dtype, tuple(shape), self.file, offset * item, plain)
        return self._placed(tensor, storage, stand_in)

    def _placed(self, tensor: Tensor, storage: Storage, stand_in: Opaque) -> object:
        """The tensor at its place in the file, if its storage is there and holds it."""
        if storage.key not in self.storages:
            return self._defective(stand_in, "missing", f"storage {storage.key[:100]} of a tensor is not there")
        start, held = self.storages[storage.key]
        wanted = storage.elements * ITEM_BYTES[storage.dtype or "uint8"]
        if held < wanted:
            return self._defective(
                stand_in, "truncated", f"storage {storage.key[:100]} has {held} bytes, {wanted} are needed"
            )
        if tensor.offset + span(tensor) > wanted:
            return self._defective(
                stand_in, "malformed", f"a tensor goes beyond the end of its storage {storage.key[:100]}"
            )
        if tensor.nbytes > max(wanted, EXPANDED_BYTES):
            return self._defective(stand_in, "limit", f"a tensor stands for {tensor.nbytes} bytes, and has {wanted}")
        return Tensor("", tensor.dtype, tensor.shape, self.file, start + tensor.offset, tensor.strides)

    def _defective(self, stand_in: Opaque, kind: str, summary: str) -> Opaque:
        if sum(one.kind == kind for one in self.defects) < SHOWN:
            self.defects.append(Defect(kind, self.file, summary))
        return stand_in


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_shape(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) <= MAX_DIMENSIONS and all(_is_count(one) for one in value)
