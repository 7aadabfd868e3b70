"""A DeepSpeed checkpoint (one tag's folder): weights, master weights and optimizer moments by parameter, and the state.

The files are those of DeepSpeed's runtime/engine.py (``_common_checkpoint_state``, ``_save_zero_checkpoint``); ZeRO 0
to 3 and the bf16 optimizer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import Any

from rlhfd_daemon.checkpoints import torchzip, universal
from rlhfd_daemon.checkpoints.contents import Contents
from rlhfd_daemon.checkpoints.defect import Defect, Refused
from rlhfd_daemon.checkpoints.opening import Folder, Identity, OpenFile
from rlhfd_daemon.checkpoints.partitions import Piece, of_groups, of_parameters, share
from rlhfd_daemon.checkpoints.tensor import Tensor
from rlhfd_daemon.checkpoints.training_state import TrainingState, of_model, of_optimizer

__all__ = ["MODEL_FILE", "OPTIMIZER_FILE", "Tag", "read"]

MODEL_FILE = re.compile(r"(?:zero_pp_rank_(\d{1,6})_)?mp_rank_(\d{1,6})_model_states\.pt")
OPTIMIZER_FILE = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d{1,6})_mp_rank_(\d{1,6})_optim_states\.pt")
MAX_DIMENSIONS = 64
MAX_PIECES = 300_000
_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer", "max_exp_avg_sq")
_AGREED = ("global_steps", "global_samples", "skipped_steps", "dp_world_size", "mp_world_size", "ds_version")
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Tag:
    """All that the files of one folder say. ``identities`` as in :class:`Contents`."""

    state: TrainingState
    pieces: tuple[Piece, ...] = ()
    defects: tuple[Defect, ...] = ()
    identities: Mapping[str, Identity] = field(default_factory=dict)


@dataclass(slots=True)
class _Found:
    """Gathered while the files are read, one after the other, so that one tree is held at a time."""

    pieces: list[Piece] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)
    identities: dict[str, Identity] = field(default_factory=dict)
    states: list[tuple[str, TrainingState]] = field(default_factory=list)
    groups: dict[int, list[Shapes]] = field(default_factory=dict)
    """By tensor-parallel rank: the parameters of each group, as the optimizer flattened them."""
    flats: list[_Flats] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Flats:
    """The flat tensors of one optimizer file: for each kind one per group (ZeRO-1, 2) or sub-group (ZeRO-3)."""

    file: str
    rank: int
    model_rank: int
    stage: int | None
    kinds: dict[str, dict[int, Tensor]]


def read(folder: Folder) -> Tag:
    """The checkpoint in ``folder``; files of other ranks that are not there are no defect here.

    Raises :class:`Vanished` if a file goes away while it is read.
    """
    names = folder.names()
    found = _Found()
    for pattern, take in ((MODEL_FILE, _take_model), (OPTIMIZER_FILE, _take_optimizer)):
        for name in names:
            if matched := pattern.fullmatch(name):
                _take(folder, name, int(matched[1] or 0), int(matched[2]), take, found)
    state = _merged(found)
    for flats in found.flats:
        _place(flats, state, found)
    if "zero" in names:
        extra = universal.read(folder)
        found.pieces.extend(extra.pieces)
        found.defects.extend(extra.defects)
        found.identities.update(extra.identities)
    return Tag(state, tuple(found.pieces), tuple(found.defects), found.identities)


def _take(folder: Folder, name: str, rank: int, model_rank: int, take: Any, found: _Found) -> None:
    try:
        opened = folder.file(name)
    except Refused as refused:
        found.defects.append(refused.defect)
        return
    with opened:
        contents = torchzip.read(opened)
        found.identities.update(contents.identities)
        found.defects.extend(contents.defects)
        if isinstance(contents.metadata, dict):
            take(opened, contents, rank, model_rank, found)
            opened.check()
        elif not contents.defects:
            found.defects.append(Defect("malformed", name, "is no dict, as DeepSpeed writes it"))


def _take_model(opened: OpenFile, contents: Contents, rank: int, model_rank: int, found: _Found) -> None:
    tree: Any = contents.metadata
    found.states.append((opened.name, of_model(tree)))
    groups = [_shapes(one) for one in _listed(tree.get("param_shapes"))]
    if any(groups):
        found.groups[model_rank] = groups
    partitioned = {name for group in groups for name in group}
    frozen = _shapes(tree.get("frozen_param_shapes"))
    for tensor in contents.tensors:
        prefix, _, name = tensor.name.partition(".")
        if prefix == "module" and not (tensor.shape == (0,) and (name in partitioned or name in frozen)):
            found.pieces.append(Piece("weight", name, tensor.shape, 0, replace(tensor, name=name), rank, model_rank))
        elif prefix == "optimizer" and tensor.name.rpartition(".")[2] in _MOMENTS:  # ZeRO-0
            kind = tensor.name.rpartition(".")[2]
            found.pieces.append(Piece(kind, tensor.name, tensor.shape, 0, tensor, rank, model_rank))
        elif prefix == "frozen_param_fragments" and name in frozen:
            whole = math.prod(frozen[name])
            world = of_model(tree).dp_world_size or 1
            begin = 0 if tensor.elements == whole else rank * share(whole, world)
            kept = max(min(tensor.elements, whole - begin), 0)
            if not tensor.strides and tensor.elements != whole:
                tensor = replace(tensor, shape=(kept,))
            found.pieces.append(
                Piece("weight", name, frozen[name], begin, replace(tensor, name=name), rank, model_rank)
            )


def _take_optimizer(opened: OpenFile, contents: Contents, rank: int, model_rank: int, found: _Found) -> None:
    tree: Any = contents.metadata
    state = of_optimizer(tree, opened)
    found.states.append((opened.name, state))
    inner = tree.get("optimizer_state_dict")
    if not isinstance(inner, dict):
        found.defects.append(Defect("malformed", opened.name, "has no optimizer_state_dict"))
        return
    by_parameter = "fp32_flat_groups" in inner
    master = inner.get("fp32_flat_groups" if by_parameter else "single_partition_of_fp32_groups")
    kinds = {"master": _flat(enumerate(_listed(master)))}
    base = inner.get("base_optimizer_state", inner.get("optimizer_state_dict"))
    states = base.get("state") if isinstance(base, dict) else dict(enumerate(_listed(base)))
    if isinstance(states, dict):
        for kind in _MOMENTS:
            kinds[kind] = _flat((index, one.get(kind)) for index, one in states.items() if isinstance(one, dict))
    stage = 3 if by_parameter else state.zero_stage
    found.flats.append(_Flats(opened.name, rank, model_rank, stage, kinds))


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _shapes(value: object) -> Shapes:
    """Names and shapes; what is not one is left out."""
    return {
        name: tuple(shape)
        for name, shape in (value.items() if isinstance(value, dict) else ())
        if isinstance(name, str)
        and isinstance(shape, (list, tuple))
        and len(shape) <= MAX_DIMENSIONS
        and all(type(one) is int and 0 <= one < 1 << 63 for one in shape)
        and math.prod(shape) < 1 << 63
    }


def _flat(found: Any) -> dict[int, Tensor]:
    return {
        index: one
        for index, one in found
        if type(index) is int and isinstance(one, Tensor) and len(one.shape) == 1 and not one.strides
    }


def _place(flats: _Flats, state: TrainingState, found: _Found) -> None:
    """Makes pieces of the flat tensors of one file."""
    groups = found.groups.get(flats.model_rank)
    if groups is None:
        if any(flats.kinds.values()):
            summary = "the file with the names and shapes of its parameters is not there"
            found.defects.append(Defect("missing", flats.file, summary))
        return
    world = state.partition_count or state.dp_world_size or 1
    place = _by_parameter if flats.stage == 3 else _by_group
    room = MAX_PIECES - len(found.pieces)
    placed = place(flats, groups, world, found)
    found.pieces.extend(islice(placed, room))
    if next(placed, None) is not None:
        found.defects.append(Defect("limit", flats.file, f"more than {MAX_PIECES} parts of parameters"))


def _by_parameter(flats: _Flats, groups: list[Shapes], world: int, found: _Found) -> Iterator[Piece]:
    shapes = {name: shape for group in groups for name, shape in group.items()}
    wanted = sum(share(math.prod(shape), world) for shape in shapes.values())
    for kind, tensors in flats.kinds.items():
        held = sum(one.elements for one in tensors.values())
        if tensors and held < wanted:
            found.defects.append(_too_few(flats, kind, held, wanted))
        ordered = [tensors[index] for index in sorted(tensors)]
        yield from of_parameters(kind, ordered, shapes, world, flats.rank, flats.model_rank)


def _by_group(flats: _Flats, groups: list[Shapes], world: int, found: _Found) -> Iterator[Piece]:
    alike = [one for one in found.flats if one.model_rank == flats.model_rank]
    for index, shapes in enumerate(groups):
        # All ranks have as much, but the last one's master weights are saved without the padding.
        each = max(
            (kinds[index].elements for one in alike for kinds in one.kinds.values() if index in kinds), default=0
        )
        wanted = sum(math.prod(shape) for shape in shapes.values())
        if each * world < wanted:
            found.defects.append(_too_few(flats, f"group {index}", each * world, wanted))
        for kind, tensors in flats.kinds.items():
            if index not in tensors:
                continue
            start = flats.rank * each
            needed = min(each, max(wanted - start, 0))
            if tensors[index].elements < needed:
                found.defects.append(_too_few(flats, f"{kind} of group {index}", tensors[index].elements, needed))
            yield from of_groups(kind, tensors[index], shapes, start, flats.rank, flats.model_rank)


def _too_few(flats: _Flats, what: str, held: int, wanted: int) -> Defect:
    summary = f"{what} has {held} elements, the parameters need {wanted}"
    return Defect("inconsistent", flats.file, summary, evidence={"held": held, "wanted": wanted})


def _merged(found: _Found) -> TrainingState:
    """What the files say together; the first that says something counts, others that differ are a defect."""
    values: dict[str, Any] = {}
    said_by: dict[str, str] = {}
    for file, state in found.states:
        for one in fields(TrainingState):
            value = getattr(state, one.name)
            if value is None or value == () or value == {}:
                continue
            if one.name == "optimizer_steps":
                values[one.name] = tuple(sorted({*values.get(one.name, ()), *value}))
            elif one.name not in values:
                values[one.name], said_by[one.name] = value, file
            elif one.name in _AGREED and value != values[one.name]:
                summary = f"{one.name} is {value!r:.60}, and {values[one.name]!r:.60} in {said_by[one.name]}"
                found.defects.append(Defect("inconsistent", file, summary))
    return TrainingState(**values)
