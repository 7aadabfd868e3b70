"""Packs made-up samples by OpenRLHF's own functions, under our hooks; a program of the OpenRLHF environment.

Usage: ``python packing_in_openrlhf.py RING...``. For each ring size the samples go through ``NaiveReplayBuffer`` and,
as in the models, through ``unpad_and_slice_tensor`` of a ring attention group of that size. Prints a JSON list: of each
size ``signals``, what the hooks found, and ``positions`` and ``tokens`` of each micro-batch as OpenRLHF packed it.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import torch  # type: ignore[import-not-found]

from in_place import process_of, recorder
from rlhfd_emitter import hooks
from rlhfd_emitter.signals import training

SAMPLES, ROWS = 24, 5
process = process_of("PolicyModelActor")
hooks.install(process)

from openrlhf.models import ring_attn_utils  # type: ignore[import-not-found]  # noqa: E402
from openrlhf.trainer.ppo_utils.experience import Experience  # type: ignore[import-not-found]  # noqa: E402
from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer  # type: ignore[import-not-found]  # noqa: E402


def filled() -> Any:
    """A buffer of samples that came padded, as from the experience maker."""
    torch.manual_seed(0)
    buffer = NaiveReplayBuffer(ROWS, packing_samples=True)
    lengths = torch.randint(1, 30, (SAMPLES, 1))
    mask = (torch.arange(30) < lengths).long()
    buffer.append(Experience(sequences=torch.randint(5, 99, mask.shape), attention_mask=mask, action_mask=mask[:, 1:]))
    return buffer


def packed(experience: Any, ring: int) -> tuple[int, int]:
    """Positions of all ranks of the ring, and tokens."""
    group = object() if ring > 1 else None
    shares = []
    for rank in range(ring):
        ring_attn_utils.dist = SimpleNamespace(get_rank=lambda group, of=rank: of, get_world_size=lambda group: ring)
        own, *_ = ring_attn_utils.unpad_and_slice_tensor(experience.sequences, experience.attention_mask, group)
        shares.append(own.numel())
    return sum(shares), int(experience.attention_mask.sum())


def case(ring: int) -> dict[str, Any]:
    buffer, found = filled(), []

    def train(trainer: Any) -> None:
        for start in range(0, SAMPLES, ROWS):
            found.append(packed(buffer.collate_fn(buffer.items[start : start + ROWS]), ring))

    args = SimpleNamespace(ds=SimpleNamespace(packing_samples=True, ring_attn_size=ring), train=SimpleNamespace())
    training.ppo_train("policy")(process, train)(SimpleNamespace(args=args))
    positions, tokens = zip(*found, strict=True)
    return {"signals": recorder(process).metrics[-1][1], "positions": positions, "tokens": tokens}


if __name__ == "__main__":
    ring_attn_utils.update_ring_attn_params = lambda cu_seqlens: None  # tells ring-flash-attn, which needs a GPU
    print(json.dumps([case(int(ring)) for ring in sys.argv[1:]]))
