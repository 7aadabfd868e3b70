"""Importance ratios and their clipping."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import CLIPPED, INFO, MEASURED, OURS, WARNING, above, below, zeros

__all__ = ["ROWS"]

RATIOS = "TRL documentation, PPO Trainer: a ratio of 2 or 1000 says that something is wrong; huggingface/trl#1857"
OLD = (
    "The log-probabilities that the samples were made with are not those of the policy that is trained: lower "
    "--actor.adam.lr and --train.max_epochs; in async runs --train.async_queue_size; and look at "
    "--rollout.temperature and the weight sync."
)

ROWS = (
    row(
        "clip_ratio_high", "Much of the update is clipped", "clip", WARNING,
        (above(CLIPPED, 0.3),), hold=(3, 5), after=3, critical=0.8,
        summary="train/ppo_clip_ratio is {value}, above {limit}",
        remedy="Updates are too large for the clip range: lower --actor.adam.lr or --train.max_epochs; a wrong "
        "importance ratio does the same (rlhfd/ratio/mean far from 1).",
        source=f"Schulman et al. 2017, arXiv:1707.06347; {MEASURED}: at most 0.009 with large models",
        false_positives="--actor.policy_loss_type gspo clips whole sequences and reads far higher.",
    ),
    row(
        "clip_never", "Nothing is ever clipped", "clip", INFO,
        zeros(CLIPPED, 30), after=30, strictly=("inner_epochs",),
        summary="train/ppo_clip_ratio has been 0 for 30 steps although a rollout is used for several optimizer steps",
        remedy="The policy hardly moves: raise --actor.adam.lr, or look whether the advantages are 0 "
        "(rlhfd/advantage/abs_mean).",
        source=f"{OURS}; {MEASURED}: 0 is normal with one optimizer step a rollout",
    ),
    row(
        "ratio_mean_high", "The mean importance ratio is above 1", "clip", WARNING,
        (above("rlhfd/ratio/mean", 1.5),), hold=(3, 5), after=3, critical=10.0,
        explains=("clip_ratio_high", "policy_step_large"),
        summary="the mean importance ratio is {value}; it is 1 if samples and policy fit", remedy=OLD, source=RATIOS,
    ),
    row(
        "ratio_mean_low", "The mean importance ratio is below 1", "clip", WARNING,
        (below("rlhfd/ratio/mean", 0.6),), hold=(3, 5), after=3, critical=0.1,
        explains=("clip_ratio_high", "policy_step_large"),
        summary="the mean importance ratio is {value}; it is 1 if samples and policy fit", remedy=OLD, source=RATIOS,
    ),
    row(
        "ratio_extreme", "Importance ratios of single tokens explode", "clip", INFO,
        (above("rlhfd/ratio/max", 1000.0),), hold=(5, 10), after=5,
        explains=("policy_step_large",),
        summary="the greatest importance ratio of a token is {value}",
        remedy="Look at those tokens. --actor.dual_clip bounds what a large ratio with a negative advantage can do; "
        "else lower --actor.adam.lr.",
        source=RATIOS,
    ),
    row(
        "policy_ess_low", "The samples say little about the policy that is trained", "clip", WARNING,
        (below("rlhfd/ratio/ess_ratio", 0.3),), hold=(5, 10), after=5,
        explains=("clip_ratio_high",),
        summary="the effective sample size of the importance ratios is {value} of the tokens",
        remedy=OLD, source="verl documentation, Rollout Correction: 0.3",
    ),
    row(
        "clip_upper_only", "Only increases of probability are clipped", "clip", INFO,
        (above("rlhfd/ratio/clipped_high_ratio", 0.02, "mean", 20),
         below("rlhfd/ratio/clipped_low_ratio", 0.002, "mean", 20)),
        hold=(10, 10),
        explains=("entropy_low",),
        summary="{value} of the tokens are clipped at the upper bound, hardly any at the lower one",
        remedy="Rare tokens cannot become likely: raise the upper bound (--actor.eps_clip_low_high 0.2 0.28).",
        source="Yu et al. 2025 (DAPO), arXiv:2503.14476; the numbers are our choice",
    ),
    row(
        "clip_lower_only", "Only decreases of probability are clipped", "clip", INFO,
        (above("rlhfd/ratio/clipped_low_ratio", 0.02, "mean", 20),
         below("rlhfd/ratio/clipped_high_ratio", 0.002, "mean", 20)),
        hold=(10, 10),
        summary="{value} of the tokens are clipped at the lower bound, hardly any at the upper one",
        remedy="The policy mostly unlearns: look at the share of negative advantages, and at "
        "--actor.eps_clip_low_high.",
        source=f"Yu et al. 2025 (DAPO), arXiv:2503.14476; {OURS}",
    ),
    row(
        "dual_clip_busy", "The dual clip is often needed", "clip", INFO,
        (above("rlhfd/ratio/dual_clipped_ratio", 0.02),), hold=(5, 10), after=5,
        summary="{value} of the tokens reach the dual clip",
        remedy="Samples are older than the policy bears: lower --actor.adam.lr, --train.max_epochs or "
        "--train.async_queue_size.",
        source="Ye et al. 2020, arXiv:1912.09729; the limit is our choice",
    ),
)  # fmt: skip
