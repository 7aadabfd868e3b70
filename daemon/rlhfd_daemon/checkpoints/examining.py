"""Reads the tensors of a checkpoint, and of the one before beside them: statistics and comparisons by parameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from rlhfd_daemon.checkpoints.comparison import Comparison, Structure, comparison, differences, structure
from rlhfd_daemon.checkpoints.defect import Defect, Refused, Vanished
from rlhfd_daemon.checkpoints.groups import Group, group_of
from rlhfd_daemon.checkpoints.inventory import Inventory
from rlhfd_daemon.checkpoints.opening import Folder, OpenFile
from rlhfd_daemon.checkpoints.partitions import Piece
from rlhfd_daemon.checkpoints.portable import Differences
from rlhfd_daemon.checkpoints.reading import Pace, blocks, in_storage_order
from rlhfd_daemon.checkpoints.statistics import TensorStatistics, statistics
from rlhfd_daemon.checkpoints.tally import Tally, merge, tally
from rlhfd_daemon.checkpoints.tensor import Tensor
from rlhfd_daemon.checkpoints.values import CODES

__all__ = ["WEIGHTS", "Examined", "Key", "Reading", "examine"]

WEIGHTS = ("weight", "master")
GATHERED = 64
Key = tuple[str, str]
"""Kind of piece (weight, master, exp_avg, ...) and name of the parameter."""


@dataclass(frozen=True, slots=True)
class Examined:
    """``tensors`` and ``comparisons`` by kind and parameter, whole ones however they were partitioned; ``groups`` by
    kind of piece and group. ``structure`` and ``comparisons`` only beside a checkpoint before."""

    tensors: Mapping[Key, TensorStatistics]
    shapes: Mapping[Key, tuple[int, ...]]
    groups: Mapping[tuple[str, Group], TensorStatistics]
    comparisons: Mapping[Key, Comparison] = field(default_factory=dict)
    structure: Structure | None = None
    defects: tuple[Defect, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """A checkpoint whose tensors are to be read: its folder and what is in it."""

    folder: Folder
    inventory: Inventory


def examine(
    new: Reading,
    old: Reading | None = None,
    *,
    pace: Pace | None = None,
    forget: bool = False,
    progress: Callable[[int], object] = lambda _count: None,
) -> Examined:
    """Everything of ``new``; ``progress`` hears of bytes that are done. The bytes of a tensor that is compared are read
    a second time, right after the first, when they are in the page cache.

    Raises :class:`Vanished` if a file of ``new`` goes away or changes; if one of ``old`` does, comparisons are missing.
    """
    examination = _Examination(new, old, pace, forget, progress)
    with ExitStack() as stack:
        return examination.run(stack)


class _Files:
    """Opens each file once."""

    def __init__(self, reading: Reading, stack: ExitStack) -> None:
        self._reading = reading
        self._stack = stack
        self._opened: dict[str, OpenFile] = {}

    def of(self, tensor: Tensor) -> OpenFile:
        if tensor.file not in self._opened:
            identity = self._reading.inventory.identities.get(tensor.file)
            opened = self._reading.folder.file(tensor.file, identity)
            self._opened[tensor.file] = self._stack.enter_context(opened)
        return self._opened[tensor.file]


class _Examination:
    def __init__(
        self, new: Reading, old: Reading | None, pace: Pace | None, forget: bool, progress: Callable[[int], object]
    ) -> None:
        self._new, self._old = new, old
        self._pace, self._forget, self._progress = pace, forget, progress
        self._defects: list[Defect] = []

    def run(self, stack: ExitStack) -> Examined:
        files = _Files(self._new, stack)
        before = None if self._old is None else _Files(self._old, stack)
        earlier = {} if self._old is None else _by_place(self._old.inventory)
        tallies: defaultdict[tuple[str, Group], list[Tally]] = defaultdict(list)
        tensors: dict[Key, TensorStatistics] = {}
        shapes: dict[Key, tuple[int, ...]] = {}
        comparisons: dict[Key, Comparison] = {}
        for key, pieces in _by_key(self._new.inventory).items():
            counted = [one for piece in pieces if (one := self._tally(piece, files)) is not None]
            if not counted:
                continue
            whole = counted[0] if len(counted) == 1 else merge(counted)
            tensors[key], shapes[key] = statistics(whole), pieces[0].shape
            _gather(tallies[key[0], group_of(key[1])], whole)
            if before is not None and (found := self._compared(pieces, earlier, files, before)) is not None:
                comparisons[key] = found
        groups = {place: statistics(merge(parts)) for place, parts in tallies.items()}
        both = None if self._old is None else structure(_shapes(self._old.inventory), _shapes(self._new.inventory))
        return Examined(tensors, shapes, groups, comparisons, both, tuple(self._defects))

    def _tally(self, piece: Piece, files: _Files) -> Tally | None:
        try:
            tensor, forget = in_storage_order(piece.tensor), self._forget and not self._old
            read = blocks(tensor, files.of(tensor), pace=self._pace, forget=forget)
            return tally(piece.tensor.dtype, self._counted(read))
        except Refused as refused:
            self._defects.append(refused.defect)
            return None

    def _counted(self, read: Iterator[memoryview]) -> Iterator[memoryview]:
        for block in read:
            yield block
            self._progress(len(block))

    def _compared(
        self, pieces: list[Piece], earlier: Mapping[_Place, Piece], files: _Files, before: _Files
    ) -> Comparison | None:
        """``None`` where the pieces do not cover each other: new, of another shape, or partitioned differently."""
        sums = Differences()
        for piece in pieces:
            old = earlier.get(_place(piece))
            if old is None or old.tensor.elements != piece.tensor.elements or old.shape != piece.shape:
                return None
            was, now = old.tensor, piece.tensor
            if was.strides == now.strides:  # then both may be read as they lie
                was, now = in_storage_order(was), in_storage_order(now)
            try:
                one = blocks(was, before.of(was), pace=self._pace, forget=self._forget)
                other = blocks(now, files.of(now), forget=self._forget)
                sums.add(differences(old.tensor.dtype, one, piece.tensor.dtype, other))
            except (Refused, Vanished):  # of the old one: what is wrong with the new one was seen before
                return None
        return comparison(sums)


def _gather(parts: list[Tally], one: Tally) -> None:
    """Into few: each merging costs as much as there are codes."""
    parts.append(one)
    if len(parts) >= GATHERED or sum(part.codes.size for part in parts) > CODES:
        parts[:] = [merge(parts)]


_Place = tuple[str, str, int, int]


def _place(piece: Piece) -> _Place:
    return piece.kind, piece.parameter, piece.start, piece.model_rank


def _by_place(inventory: Inventory) -> dict[_Place, Piece]:
    return {_place(piece): piece for piece in inventory.pieces}


def _by_key(inventory: Inventory) -> dict[Key, list[Piece]]:
    """Pieces of the same parameter together, each place once: ranks may have the same."""
    found: defaultdict[Key, dict[tuple[int, int], Piece]] = defaultdict(dict)
    for piece in inventory.pieces:
        found[piece.kind, piece.parameter].setdefault((piece.start, piece.model_rank), piece)
    return {key: list(pieces.values()) for key, pieces in found.items()}


def _shapes(inventory: Inventory) -> dict[str, Tensor]:
    """The weights, as whole tensors; where they are only in the optimizer's copy, that."""
    found: dict[str, Tensor] = {}
    for kind in WEIGHTS:
        for piece in inventory.pieces:
            if piece.kind == kind and piece.parameter not in found:
                found[piece.parameter] = Tensor(piece.parameter, piece.tensor.dtype, piece.shape, "", 0)
    return found
