"""Padding helpers in plain torch; called only with ``--ds.packing_samples``."""

from __future__ import annotations

import torch
from einops import rearrange

__all__ = ["index_first_axis", "pad_input", "rearrange", "unpad_input"]


def index_first_axis(rows: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    return rows.index_select(0, indices)


def unpad_input(
    hidden: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, torch.Tensor]:
    """``(batch, length, ...)`` to ``(tokens, ...)``, with indices, cumulative, longest and single lengths."""
    lengths = attention_mask.sum(dim=1, dtype=torch.int32)
    indices = attention_mask.reshape(-1).nonzero().squeeze(1)
    ends = torch.cumsum(lengths, dim=0, dtype=torch.int32)
    starts_and_end = torch.cat([ends.new_zeros(1), ends])
    return hidden.flatten(0, 1)[indices], indices, starts_and_end, int(lengths.max()), lengths


def pad_input(hidden: torch.Tensor, indices: torch.Tensor, batch: int, length: int) -> torch.Tensor:
    """``(tokens, ...)`` back to ``(batch, length, ...)``, zero where there was padding."""
    padded = hidden.new_zeros(batch * length, *hidden.shape[1:])
    padded[indices] = hidden
    return padded.unflatten(0, (batch, length))
