"""The critic."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import INFO, MEASURED, OURS, WARNING, above, below, now_times, times

__all__ = ["ROWS"]

EXPLAINED = "rlhfd/explained_variance"
DETAILS = "Huang et al. 2022, The 37 Implementation Details of Proximal Policy Optimization"
FIT = (
    "Lower --critic.adam.lr, look at the scale of the rewards (--reward.normalize_enable, --reward.clip_range), and "
    "let the critic learn alone first (--critic.freezing_steps)."
)

ROWS = (
    row(
        "explained_variance_negative", "The critic is worse than a constant", "value", WARNING,
        (below(EXPLAINED, 0.0), below(EXPLAINED, -0.05, "mean", 10)), hold=(5, 10), after=60, critical=-5.0,
        requires=("critic",),
        summary="explained variance is {value}, long after the beginning",
        remedy=FIT, source=f"{DETAILS}; {MEASURED}: -0.65 early, 0.59 in the median",
        false_positives="Rewards that are nearly the same for all samples leave nothing to explain.",
    ),
    row(
        "critic_loss_high", "The critic's loss has exploded", "value", WARNING,
        (now_times("train/critic_loss", 10.0),), hold=(4, 6), after=30, requires=("critic",),
        explains=("explained_variance_negative", "level_change", "spikes"),
        summary="train/critic_loss is {value} times its level of the 50 steps before",
        remedy=FIT, source=f"deepspeedai/DeepSpeedExamples#556; {OURS}",
    ),
    row(
        "critic_diverges", "The critic diverges", "value", WARNING,
        (below(EXPLAINED, 0.0), times("train/critic_loss", 2.0)), hold=(4, 6), after=60,
        requires=("critic",),
        explains=("explained_variance_negative", "critic_loss_high", "policy_step_large", "level_change"),
        summary="train/critic_loss is twice its level of the 50 steps before, and what the critic predicts is worse "
        "than a constant (explained variance {value})",
        remedy=FIT, source="deepspeedai/DeepSpeedExamples#556; the numbers are our choice",
    ),
    row(
        "critic_fit_negative", "The critic does not fit while it trains", "value", INFO,
        (below("rlhfd/critic/explained_variance", -0.2),), hold=(8, 10), after=60, requires=("critic",),
        explains=("explained_variance_negative",),
        summary="explained variance while the critic trains is {value}",
        remedy=FIT, source=f"{DETAILS}; the numbers are our choice",
    ),
    row(
        "value_clipped", "The value clip holds the critic back", "value", INFO,
        (above("rlhfd/critic/value_clipped_ratio", 0.3),), hold=(8, 10), after=60, requires=("critic",),
        explains=("explained_variance_negative",),
        summary="{value} of the values are clipped",
        remedy="Values may not move as far as they must: raise --critic.value_clip or scale the rewards down.",
        source=f"{DETAILS}; {MEASURED}: 0.43 early, about 0 later",
    ),
    row(
        "critic_gradient_high", "The critic's gradient has exploded", "gradient", INFO,
        (now_times("train/critic_grad_norm", 20.0),), hold=(4, 6), after=30,
        requires=("critic",),
        explains=("critic_loss_high", "level_change", "spikes"),
        summary="train/critic_grad_norm is {value} times its level of the 50 steps before",
        remedy="Lower --critic.adam.lr or --critic.max_norm.", source=f"{MEASURED}: from 950 down to 8 in healthy runs",
    ),
    row(
        "critic_loss_rises", "The critic's loss rises above what it began with", "value", WARNING,
        (
            above("train/critic_loss", 4.0, "median", 9, "baseline"),
            above("train/critic_loss", 1.5, "median", 9, "first"),
        ),
        hold=(3, 5), after=60,
        requires=("critic",),
        explains=("explained_variance_negative", "critic_loss_high", "level_change", "trend_change"),
        summary="train/critic_loss is {value} times its level of the 50 steps before, and higher than in the first "
        "steps",
        remedy=FIT, source="deepspeedai/DeepSpeedExamples#556; the numbers are our choice",
        false_positives="A reward whose scale grows.",
    ),
)  # fmt: skip
