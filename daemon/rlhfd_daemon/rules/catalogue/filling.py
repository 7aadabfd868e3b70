"""Batches that are mostly padding, that leave ranks waiting, or that are larger than they were meant to be."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import INFO, OURS, above

__all__ = ["ROWS"]

STEPS = 20
PACKING = "Krell et al. 2021, arXiv:2107.02027; the limit is our choice"
UNEVEN = "Few answers that are far longer than the others, in batches too small to even that out."
PACK = (
    "Pack the samples of a micro-batch one behind the other: --ds.packing_samples, with a flash attention "
    "(--ds.attn_implementation)."
)

ROWS = (
    row(
        "padding_wasteful", "Most of what the policy computes in training is padding", "throughput", INFO,
        (above("rlhfd/policy/padding_ratio", 0.5), above("rlhfd/policy/padding_ratio", 0.5, "median", STEPS)),
        hold=(15, STEPS), after=STEPS,
        summary="{value} of the positions that the policy computes in training hold no token, and more than half in "
        "the median of 20 steps",
        remedy=f"{PACK} --train.dynamic_batch_enable does that and fills micro-batches up to "
        "--train.max_tokens_per_gpu. Where neither is possible, a smaller --train.micro_batch_size pads less.",
        source=PACKING, false_positives=UNEVEN,
    ),
    row(
        "supervised_padding_wasteful", "Most of what the model computes in training is padding", "throughput", INFO,
        (above("rlhfd/model/padding_ratio", 0.5), above("rlhfd/model/padding_ratio", 0.5, "median", STEPS)),
        hold=(15, STEPS), after=STEPS,
        summary="{value} of the positions that the model computes in training hold no token, and more than half in "
        "the median of 20 steps",
        remedy=f"{PACK} Else a smaller --train.micro_batch_size pads less.",
        source=PACKING, false_positives=UNEVEN,
    ),
    row(
        "ranks_uneven", "One rank of the policy has far more to train on than the others", "throughput", INFO,
        (above("rlhfd/policy/rank_tokens_imbalance", 1.75),
         above("rlhfd/policy/rank_tokens_imbalance", 1.75, "median", STEPS)),
        hold=(15, STEPS), after=STEPS,
        summary="a rank of the policy has {value} times the mean tokens of all ranks, which wait for it, and more than "
        "1.75 times in the median of 20 steps",
        remedy="--train.dynamic_batch_enable gives all ranks about as many tokens; more samples a step "
        "(--train.batch_size) even them out, too. rlhfd/policy/fullest_rank says whether it is always the same one.",
        source=f"openrlhf/trainer/ppo_utils/experience.py, balance_experiences; {OURS}",
        false_positives="Dozens of ranks with one or two samples each: they do wait, but that is how they were set up.",
    ),
    row(
        "micro_batch_overfull", "Dynamic micro-batches are larger than the limit", "throughput", INFO,
        (above("rlhfd/policy/micro_batch_fill_max", 1.25),
         above("rlhfd/policy/micro_batch_fill_max", 1.25, "median", STEPS)),
        hold=(15, STEPS), after=STEPS,
        summary="the fullest micro-batch has {value} times the tokens that --train.max_tokens_per_gpu allows",
        remedy="A single sample is longer than --train.max_tokens_per_gpu, which cannot split it, so it is no limit of "
        "the memory: raise it, or shorten answers (--rollout.max_new_tokens).",
        source=f"openrlhf/utils/seqlen_balancing.py; {OURS}",
    ),
)  # fmt: skip
