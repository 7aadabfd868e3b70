"""How full micro-batches are, counted in each process (``rlhfd_emitter.signals.micro_batches``), and between ranks."""

from __future__ import annotations

from collections.abc import Iterator

from rlhfd_daemon.metrics.metric import Metric, observed

__all__ = ["FILLING"]

PACKING = "Krell et al. 2021, Efficient Sequence Packing without Cross-contamination, arXiv:2107.02027"
DYNAMIC = "openrlhf/utils/seqlen_balancing.py"
DPO_NOTE = "chosen and rejected answers together, without the reference model"
# prefix -> (role, what its micro-batches are, the limit of a dynamic one)
PLACES = {
    "experience": ("PPOTrainer", "those in which the models see a step's samples to make experiences of them",
                   "--rollout.max_tokens_per_gpu"),
    "policy": ("PolicyModelActor", "those that this rank trains on in a step, each epoch counted",
               "--train.max_tokens_per_gpu"),
    "critic": ("CriticModelActor", "those that this rank trains on in a step, each epoch counted",
               "--train.max_tokens_per_gpu"),
    "model": ("SFTTrainer, RewardModelTrainer, DPOTrainer", f"those that this rank trains on in a step; of pairs "
              f"{DPO_NOTE}", ""),
}  # fmt: skip


def _of(place: str) -> Iterator[Metric]:
    role, which, limit = PLACES[place]
    name = f"rlhfd/{place}"
    yield observed(f"{name}/micro_batches", "count", role, f"Micro-batches: {which}.")
    yield observed(
        f"{name}/sequence_tokens", "tokens", role,
        "Tokens of all micro-batches, prompts and responses, by their attention masks.",
    )  # fmt: skip
    yield observed(
        f"{name}/positions", "tokens", role,
        "Positions that the model computes for them: rows times the longest row of each micro-batch; with "
        "--ds.packing_samples its tokens, up to a multiple of --ds.ring_attn_size, of which this rank has its part.",
    )  # fmt: skip
    yield observed(
        f"{name}/padding_ratio", "ratio", role, "Share of the positions that hold no token.",
        source=PACKING, healthy="near 0 with --ds.packing_samples",
    )  # fmt: skip
    yield observed(
        f"{name}/packing_efficiency_ratio", "ratio", role,
        "Packed-token efficiency: the share of the packed buffers that is tokens. Only with --ds.packing_samples.",
        source=PACKING, healthy="near 1",
    )  # fmt: skip
    yield observed(f"{name}/micro_batch_tokens_mean", "tokens", role, "Mean tokens of a micro-batch.")
    yield observed(f"{name}/micro_batch_tokens_max", "tokens", role, "Tokens of the fullest micro-batch.")
    yield observed(
        f"{name}/micro_batch_imbalance", "1", role,
        "Tokens of the fullest micro-batch over their mean: 1 where all are equal.",
    )  # fmt: skip
    if limit:
        dynamic = f"{limit} times the ranks that share it. Only with --train.dynamic_batch_enable"
        yield observed(
            f"{name}/micro_batch_fill_mean", "1", role, f"Mean tokens of a micro-batch over {dynamic}.", source=DYNAMIC
        )
        yield observed(
            f"{name}/micro_batch_fill_max", "1", role, f"Tokens of the fullest micro-batch over {dynamic}.",
            source=DYNAMIC, healthy="at most 1",
        )  # fmt: skip


def _between_ranks(place: str) -> Iterator[Metric]:
    role, name = PLACES[place][0], f"rlhfd/{place}"
    for what, of in (("tokens", "sequence_tokens"), ("positions", "positions")):
        yield observed(
            f"{name}/rank_{what}_imbalance", "1", role,
            f"The greatest {name}/{of} of all ranks over their mean: 1 where all are equal, 2 where one has twice the "
            "mean. Only of two ranks or more.",
        )  # fmt: skip
    yield observed(f"{name}/fullest_rank", "1", role, f"The rank with the greatest {name}/positions.")


FILLING: tuple[Metric, ...] = (
    *(metric for place in PLACES for metric in _of(place)),
    *(metric for place in PLACES if place != "experience" for metric in _between_ranks(place)),
)
