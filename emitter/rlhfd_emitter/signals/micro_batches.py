"""How well micro-batches are filled: padding, packing, how unequal they are, and how full dynamic ones are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from rlhfd_emitter.signals.batch import matrix, setting
from rlhfd_emitter.signals.statistics import Tensor
from rlhfd_emitter.signals.totals import read


class MicroBatch(NamedTuple):
    """``rows`` sequences, padded to ``width`` positions each, that together have ``tokens``."""

    rows: int
    width: int
    tokens: int


class Layout(NamedTuple):
    """How a model is given its micro-batches.

    ``packed``: as one sequence of their tokens, padded to a multiple of ``multiple``, the ranks that share it (ring
    attention); else row by row with all padding. ``limit``: how many tokens a dynamic micro-batch should have at most,
    on all ranks that share it; ``None`` where they have a fixed number of rows.
    """

    packed: bool = False
    multiple: int = 1
    limit: float | None = None

    @classmethod
    def of(cls, args: Any, stage: Literal["train", "rollout"] = "train") -> Layout | None:
        """From OpenRLHF's arguments: of the training, or of the passes that make experiences of a rollout. ``None`` if
        they are not known."""
        if args is None:
            return None
        ring = int(setting(args, "ds.ring_attn_size", "ring_attn_size") or 1)
        tensor = int(setting(args, "ds.tensor_parallel_size", "ds_tensor_parallel_size") or 1)
        limit = None
        if setting(args, "train.dynamic_batch_enable", "use_dynamic_batch"):
            most = setting(args, f"{stage}.max_tokens_per_gpu", f"{stage}_max_tokens_per_gpu")
            limit = most * ring * tensor if most else None
        return cls(bool(setting(args, "ds.packing_samples", "packing_samples")), ring, limit)

    def positions(self, one: MicroBatch) -> int:
        """How many positions the model computes."""
        return one.tokens + -one.tokens % self.multiple if self.packed else one.rows * one.width


class Masks:
    """The attention masks of micro-batches: their shapes, and their sums on their own device, read once."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []
        self._sums: list[Tensor] = []

    def put(self, *masks: Tensor) -> None:
        """Take in one micro-batch of masks (B, T), whose rows OpenRLHF pads to the widest."""
        held = [matrix(mask) for mask in masks]
        total = held[0].sum()
        for mask in held[1:]:
            total = total + mask.sum()
        self.shapes.append((sum(len(mask) for mask in held), max(mask.shape[1] for mask in held)))
        self._sums.append(total)

    def take(self) -> list[MicroBatch]:
        """All micro-batches in order; nothing is left."""
        shapes, sums = self.shapes, self._sums
        self.shapes, self._sums = [], []
        return [MicroBatch(*shape, int(tokens)) for shape, tokens in zip(shapes, read(sums), strict=True)]


def summary(name: str, batches: Sequence[MicroBatch], layout: Layout | None) -> dict[str, float]:
    """The metrics ``<name>/...`` of the micro-batches of one step; nothing of none, nor without their layout."""
    if not batches or layout is None:
        return {}
    count, tokens = len(batches), sum(one.tokens for one in batches)
    positions, most = sum(map(layout.positions, batches)), max(one.tokens for one in batches)
    values = {
        f"{name}/micro_batches": float(count),
        f"{name}/sequence_tokens": float(tokens),
        f"{name}/positions": float(positions),
        f"{name}/micro_batch_tokens_mean": tokens / count,
        f"{name}/micro_batch_tokens_max": float(most),
    }
    if tokens:
        values[f"{name}/micro_batch_imbalance"] = most * count / tokens
    if positions:
        values[f"{name}/padding_ratio"] = 1 - tokens / positions
        if layout.packed:
            values[f"{name}/packing_efficiency_ratio"] = tokens / positions
    if layout.limit:
        values[f"{name}/micro_batch_fill_mean"] = tokens / count / layout.limit
        values[f"{name}/micro_batch_fill_max"] = most / layout.limit
    return values
