"""What a reader found in the files of a checkpoint: tensors, what else was said, what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rlhfd_daemon.checkpoints.defect import Defect
from rlhfd_daemon.checkpoints.opening import Identity
from rlhfd_daemon.checkpoints.reading import span
from rlhfd_daemon.checkpoints.tensor import Tensor

__all__ = ["SHOWN", "Contents", "shared"]

SHOWN = 20
"""How many defects of one kind a file has at most, and how many names are shown in one."""


@dataclass(frozen=True, slots=True)
class Contents:
    """``identities`` are those of the files that were read: open them again with these before reading tensors.

    ``metadata`` is plain data: of safetensors the strings of its ``__metadata__``, of a torch file its whole tree.
    """

    tensors: tuple[Tensor, ...] = ()
    metadata: object = None
    defects: tuple[Defect, ...] = ()
    identities: Mapping[str, Identity] = field(default_factory=dict)


def shared(tensors: Iterable[Tensor]) -> list[Defect]:
    """One defect for the tensors of each file of which some have bytes in common, as tied weights do."""
    last: dict[str, tuple[int, str]] = {}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for tensor in sorted(tensors, key=lambda one: (one.file, one.offset)):
        if not (length := span(tensor)):
            continue
        end, name = last.get(tensor.file, (0, ""))
        if tensor.offset < end:
            pairs.setdefault(tensor.file, []).append((name, tensor.name))
        if tensor.offset + length > end:
            last[tensor.file] = (tensor.offset + length, tensor.name)
    return [
        Defect("shared", file, f"{len(found)} tensors share bytes with another", found[0][1], {"pairs": found[:SHOWN]})
        for file, found in sorted(pairs.items())
    ]
