"""Which files of a checkpoint are missing, as far as those that are there demand them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from rlhfd_daemon.checkpoints.names import Named, model_file, named, optimizer_file, shard_file

__all__ = ["MAX_NAMES", "Missing", "missing_of", "missing_ranks"]

MAX_NAMES = 32
MAX_COUNTED = 100_000

_Files = Sequence[tuple[str, Named]]


@dataclass(frozen=True, slots=True)
class Missing:
    """``names`` are the first ``MAX_NAMES`` of ``count`` files; counted are at most ``MAX_COUNTED``."""

    names: tuple[str, ...] = ()
    count: int = 0

    @classmethod
    def of(cls, names: Iterable[str]) -> Missing:
        counted = islice(iter(names), MAX_COUNTED)
        first = tuple(islice(counted, MAX_NAMES))
        return cls(first, len(first) + sum(1 for _ in counted))

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        return ", ".join(self.names[:4]) + (f" and {self.count - 4} more" if self.count > 4 else "")


def missing_of(kind: str, files: _Files, demands: Collection[str], has_script: bool, elsewhere: bool) -> Missing:
    """Of a checkpoint of ``kind`` (see ``layout.Kind``). ``demands`` are the files that an index names, ``has_script``
    whether DeepSpeed has left the script beside it that it copies with ZeRO only, ``elsewhere`` as in
    ``layout.Description``."""
    if kind == "deepspeed":
        return Missing.of(_deepspeed(files, has_script, elsewhere))
    if kind == "universal":
        return Missing.of(_universal(files))
    if kind == "adapter":
        return Missing.of(_adapter({one.kind for _, one in files}))
    return Missing.of(_export(files, demands)) if kind == "export" else Missing()


def missing_ranks(files: _Files, data_world_size: int, skip: Callable[[int, int], bool]) -> Missing:
    """The optimizer states under ZeRO of ``data_world_size`` ranks, and the model states under ZeRO-3; ``skip`` says
    for a data and model rank that none are expected here."""
    return Missing.of(_ranks(files, range(data_world_size), skip))


def _deepspeed(files: _Files, has_script: bool, elsewhere: bool) -> Iterator[str]:
    kinds = Counter(one.kind for _, one in files)
    if not kinds["model_states"] and not elsewhere:
        yield model_file(None, 0)
        if not kinds["optimizer_states"]:
            return
    ranks = [one.data_rank for _, one in files if one.kind in ("optimizer_states", "model_states")]
    found = [rank for rank in ranks if rank is not None]
    if found:
        first = min(found) if elsewhere else 0
        yield from _ranks(files, range(first, max(found) + 1), lambda *_: False)
    elif has_script:
        yield optimizer_file("", 0, 0)
    yield from _experts(files)


def _ranks(files: _Files, data_ranks: range, skip: Callable[[int, int], bool]) -> Iterator[str]:
    optimizers = {(one.data_rank, one.model_rank) for _, one in files if one.kind == "optimizer_states"}
    models = {(one.data_rank, one.model_rank) for _, one in files if one.kind == "model_states"}
    widest = 1 + max((one.model_rank or 0 for _, one in files if one.kind.endswith("_states")), default=0)
    prefix = next((one.prefix for _, one in files if one.kind == "optimizer_states"), "")
    partitioned = any(rank is not None for rank, _ in models)
    if models and not partitioned:
        yield from (model_file(None, rank) for rank in range(widest) if (None, rank) not in models)
    for data_rank in data_ranks:
        for model_rank in range(widest):
            if skip(data_rank, model_rank):
                continue
            if partitioned and (data_rank, model_rank) not in models:
                yield model_file(data_rank, model_rank)
            if (data_rank, model_rank) not in optimizers:
                yield optimizer_file(prefix, data_rank, model_rank)


def _experts(files: _Files) -> Iterator[str]:
    """Every layer has as many experts as any other, for each tensor-parallel rank that has some."""
    found = {(one.layer, one.expert, one.model_rank): name for name, one in files if one.kind == "expert_states"}
    most = 1 + max((expert or 0 for _, expert, _ in found), default=-1)
    for layer, model_rank in sorted({(layer if layer is not None else -1, rank or 0) for layer, _, rank in found}):
        before = "" if layer < 0 else f"layer_{layer}_"
        for expert in range(most):
            if (None if layer < 0 else layer, expert, model_rank) not in found:
                yield f"{before}expert_{expert}_mp_rank_{model_rank:02d}_model_states.pt"


def _export(files: _Files, demands: Collection[str]) -> Iterator[str]:
    names = {name for name, _ in files}
    shards = [(name, one.shard) for name, one in files if one.kind == "weights" and one.shard]
    if demands:
        yield from (name for name in sorted(demands) if name not in names)
    elif shards:
        example, (_, total) = shards[0]
        yield from (name for number in range(1, total + 1) if (name := shard_file(example, number)) not in names)
        yield "model.safetensors.index.json" if example.endswith(".safetensors") else "pytorch_model.bin.index.json"
    elif not any(one.kind == "weights" for _, one in files):
        yield "model.safetensors"
    if "config.json" not in names:
        yield "config.json"


def _adapter(kinds: Collection[str]) -> Iterator[str]:
    if "adapter" not in kinds:
        yield "adapter_model.safetensors"
    if "adapter_config" not in kinds:
        yield "adapter_config.json"


def _universal(files: _Files) -> Iterator[str]:
    """Each parameter has its weights and, unless it is frozen, both moments."""
    by_parameter: dict[str, set[str]] = {}
    for name, _ in files:
        folder, slash, file = name.removeprefix("zero/").partition("/")
        if slash:
            by_parameter.setdefault(folder, set()).add(file)
    if not by_parameter:
        yield "zero/*/fp32.pt"
    for folder, held in sorted(by_parameter.items()):
        moments = {"exp_avg.pt", "exp_avg_sq.pt"}
        wanted = {"fp32.pt"} | (moments if held & moments else set())
        yield from (f"zero/{folder}/{file}" for file in sorted(wanted - held))
    if not any(named(name).kind == "model_states" for name, _ in files):
        yield model_file(None, 0)
