"""How full micro-batches are a second time, from their attention masks, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Args = Mapping[str, Any]  # OpenRLHF's arguments by dotted name


def filling(name: str, masks: Sequence[Any], args: Args, stage: str) -> dict[str, float]:
    """Every metric that there should be of the micro-batches with these masks (B, T) in ``stage``, train or rollout."""
    if not masks:
        return {}
    tokens = [sum(int(cell) for row in np.atleast_2d(mask) for cell in row) for mask in masks]
    ring, packed = int(args.get("ds.ring_attn_size") or 1), bool(args.get("ds.packing_samples"))
    computed = 0
    for mask, count in zip(masks, tokens, strict=True):
        rows, width = np.atleast_2d(mask).shape
        computed += math.ceil(count / ring) * ring if packed else rows * width
    values: dict[str, Any] = {
        "micro_batches": len(masks),
        "sequence_tokens": sum(tokens),
        "positions": computed,
        "micro_batch_tokens_mean": np.mean(tokens),
        "micro_batch_tokens_max": max(tokens),
    }
    if sum(tokens):
        values["micro_batch_imbalance"] = max(tokens) / np.mean(tokens)
    if computed:
        values["padding_ratio"] = (computed - sum(tokens)) / computed
        if packed:
            values["packing_efficiency_ratio"] = sum(tokens) / computed
    if args.get("train.dynamic_batch_enable"):
        room = args[f"{stage}.max_tokens_per_gpu"] * ring * int(args.get("ds.tensor_parallel_size") or 1)
        values["micro_batch_fill_mean"] = np.mean([count / room for count in tokens])
        values["micro_batch_fill_max"] = max(tokens) / room
    return {f"rlhfd/{name}/{key}": float(value) for key, value in values.items()}
