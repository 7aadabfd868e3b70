"""What rlhfd computes in each rank of the policy and of the critic while they train (``rlhfd_emitter.signals``)."""

from __future__ import annotations

from collections.abc import Iterator

from rlhfd_daemon.metrics.metric import Metric, observed

__all__ = ["TRAINING"]

ACTOR, CRITIC_ACTOR = "PolicyModelActor", "CriticModelActor"
PPO = "Schulman et al. 2017, arXiv:1707.06347"
KL_ESTIMATORS = "Schulman 2020, Approximating KL Divergence"
ESS = "Kong 1992, A Note on Importance Sampling using Standardized Weights; Liu 2001"
DAPO = "Yu et al. 2025 (DAPO), arXiv:2503.14476"
DUAL_CLIP = "Ye et al. 2020, arXiv:1912.09729"
CLIPPING = "Pascanu et al. 2013, arXiv:1211.5063"
DETAILS = "Huang et al. 2022, The 37 Implementation Details of Proximal Policy Optimization"
MIXED_PRECISION = "Micikevicius et al. 2018, arXiv:1710.03740"

RATIO = "The ratio is new over old probability of a token, its logarithm clamped to ±20"

RATIOS = (
    observed(
        "rlhfd/ratio/mean", "1", ACTOR,
        f"Mean importance ratio over this rank's response tokens, each epoch counted. {RATIO}. Absent with gspo.",
        source=PPO, healthy="near 1",
    ),
    observed("rlhfd/ratio/max", "1", ACTOR, f"Greatest importance ratio of a token. {RATIO}.", source=PPO),
    observed("rlhfd/ratio/min", "1", ACTOR, f"Least importance ratio of a token. {RATIO}.", source=PPO),
    observed(
        "rlhfd/ratio/outside_ratio", "ratio", ACTOR,
        "Share of response tokens whose importance ratio is outside the clip range, whatever the advantage.",
        source=PPO,
    ),
    observed(
        "rlhfd/ratio/below_ratio", "ratio", ACTOR, "Share of response tokens whose ratio is below 1 - eps_low.",
        source=PPO,
    ),
    observed(
        "rlhfd/ratio/above_ratio", "ratio", ACTOR, "Share of response tokens whose ratio is above 1 + eps_high.",
        source=PPO,
    ),
    observed(
        "rlhfd/ratio/clipped_low_ratio", "ratio", ACTOR,
        "Share of response tokens below the clip range with a negative advantage: the loss takes the clipped ratio, "
        "and they teach nothing more. With clipped_high_ratio it makes train/ppo_clip_ratio.",
        source=DAPO, trl=("clip_ratio/low_mean",),
    ),
    observed(
        "rlhfd/ratio/clipped_high_ratio", "ratio", ACTOR,
        "Share of response tokens above the clip range with a positive advantage: the loss takes the clipped ratio.",
        source=DAPO, trl=("clip_ratio/high_mean",),
    ),
    observed(
        "rlhfd/ratio/dual_clipped_ratio", "ratio", ACTOR,
        "Share of response tokens with a negative advantage whose ratio is above the dual clip. Only with "
        "--actor.dual_clip.",
        source=DUAL_CLIP, verl=("actor/pg_clipfrac_lower",),
    ),
    observed(
        "rlhfd/ratio/nonfinite_ratio", "ratio", ACTOR,
        "Share of response tokens whose new or old log-probability is no finite number; absent if none is.",
    ),
    observed(
        "rlhfd/ratio/ess_ratio", "ratio", ACTOR,
        f"Effective sample size of the importance ratios w over their number, (Σw)² / (n Σw²): 1 on-policy. {RATIO}.",
        source=ESS,
    ),
    observed(
        "rlhfd/policy_kl/k1", "nats_per_token", ACTOR,
        "Mean of old minus new log-probability over this rank's response tokens: estimator k1 of KL(old || new). Over "
        "all ranks it is train/ppo_kl.",
        source=KL_ESTIMATORS,
    ),
    observed(
        "rlhfd/policy_kl/k3", "nats_per_token", ACTOR,
        f"Mean of w - 1 - log w: estimator k3 of KL(old || new), never negative. {RATIO}.", source=KL_ESTIMATORS,
    ),
)  # fmt: skip

CRITIC_FIT = (
    observed(
        "rlhfd/critic/value_clipped_ratio", "ratio", CRITIC_ACTOR,
        "Share of response tokens whose value has moved beyond the value clip and farther from the return with it: "
        "the loss takes the clipped value.",
        source=DETAILS, trl=("val/clipfrac_avg",), verl=("critic/vf_clipfrac",),
    ),
    observed(
        "rlhfd/critic/explained_variance", "1", CRITIC_ACTOR,
        "1 - Var(returns - values) / Var(returns) over this rank's response tokens, values as predicted when each "
        "micro-batch was trained on; rlhfd/explained_variance is that before training. Absent if all returns are "
        "equal.",
        source=DETAILS,
    ),
)  # fmt: skip


def _optimizer(name: str, role: str) -> Iterator[Metric]:
    """The same of both models."""
    norm = "global L2 norm of the gradient before clipping, as DeepSpeed computed it, over the step's optimizer steps"
    for part, word in (("mean", "Mean"), ("max", "Greatest")):
        yield observed(f"rlhfd/{name}/gradient_norm_{part}", "1", role, f"{word} {norm}.", source=CLIPPING)
    yield observed(
        f"rlhfd/{name}/gradient_norm_last", "1", role, "The same norm of the step's last optimizer step.",
        source=CLIPPING,
    )  # fmt: skip
    yield observed(f"rlhfd/{name}/optimizer_steps", "count", role, "Optimizer steps that this training step made.")
    yield observed(
        f"rlhfd/{name}/skipped_steps", "count", role,
        "Optimizer steps that DeepSpeed skipped since a float16 gradient had overflowed.", source=MIXED_PRECISION,
    )  # fmt: skip
    yield observed(
        f"rlhfd/{name}/tokens", "tokens", role, "Response tokens that this rank trained on, each epoch counted."
    )


OVERHEAD = observed(
    "rlhfd/overhead/training_seconds", "seconds", f"{ACTOR}; {CRITIC_ACTOR}",
    "Time that rlhfd took for the signals of one ppo_train.",
)  # fmt: skip

TRAINING: tuple[Metric, ...] = (
    *RATIOS,
    *_optimizer("policy", ACTOR),
    *CRITIC_FIT,
    *_optimizer("critic", CRITIC_ACTOR),
    OVERHEAD,
)
