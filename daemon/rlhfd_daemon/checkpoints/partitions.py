"""Which elements of which parameter a flat partition of ZeRO holds, as DeepSpeed's utils/zero_to_fp32.py puts it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rlhfd_daemon.checkpoints.tensor import ITEM_BYTES, Tensor

__all__ = ["Piece", "of_groups", "of_parameters", "share"]

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive elements of a parameter, from number ``start`` in row-major order, in the file of one rank.

    ``kind``: ``weight`` (as the model computes with it), ``master`` (the optimizer's float32 copy), or the name of an
    optimizer moment (``exp_avg``, ``exp_avg_sq``). ``shape`` is that of the whole parameter; ``rank`` and
    ``model_rank`` are the data-parallel and the tensor-parallel one.
    """

    kind: str
    parameter: str
    shape: tuple[int, ...]
    start: int
    tensor: Tensor
    rank: int = 0
    model_rank: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the parameter (of this tensor-parallel rank)."""
        return self.tensor.elements == math.prod(self.shape)


def share(elements: int, world: int) -> int:
    """Elements of a parameter that each rank has under ZeRO-3; the last rank's are padded."""
    return -(-elements // world)


def of_groups(kind: str, flat: Tensor, shapes: Shapes, start: int, rank: int, model_rank: int) -> Iterator[Piece]:
    """ZeRO-1 and 2: the parameters of a group lie one behind the other, and ``flat`` is what comes from ``start``."""
    position = 0
    for name, shape in shapes.items():
        elements = math.prod(shape)
        first, last = max(position, start), min(position + elements, start + flat.elements)
        if first < last:
            part = _cut(flat, name, first - start, last - first)
            yield Piece(kind, name, shape, first - position, part, rank, model_rank)
        position += elements


def of_parameters(
    kind: str, flats: Sequence[Tensor], shapes: Shapes, world: int, rank: int, model_rank: int
) -> Iterator[Piece]:
    """ZeRO-3: ``flats``, one behind the other, hold this rank's share of each parameter."""
    ends: list[int] = []
    for flat in flats:
        ends.append(flat.elements + (ends[-1] if ends else 0))
    position = index = 0
    for name, shape in shapes.items():
        elements = math.prod(shape)
        each = share(elements, world)
        begin = rank * each
        wanted = max(min(each, elements - begin), 0)
        done = 0
        while done < wanted and index < len(flats):
            flat_start = ends[index] - flats[index].elements
            inside = position + done - flat_start
            count = min(wanted - done, ends[index] - position - done)
            if count > 0:
                part = _cut(flats[index], name, inside, count)
                yield Piece(kind, name, shape, begin + done, part, rank, model_rank)
                done += count
            if done < wanted:
                index += 1
        position += each
        while index < len(flats) and ends[index] <= position:
            index += 1


def _cut(flat: Tensor, name: str, start: int, count: int) -> Tensor:
    offset = flat.offset + start * ITEM_BYTES[flat.dtype]
    return replace(flat, name=name, shape=(count,), offset=offset)
