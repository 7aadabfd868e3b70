"""Gradients of the policy and of supervised training."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import INFO, MEASURED, OURS, WARNING, above, now_below, now_times, zeros
from rlhfd_daemon.rules.rule import Argument

__all__ = ["ROWS"]

NORM = "train/actor_grad_norm"
LOWER = "Lower --actor.adam.lr or --actor.max_norm, and look at the batch of the onset step."

ROWS = (
    row(
        "gradient_explodes", "The gradient has exploded", "gradient", WARNING,
        (now_times(NORM, 10.0),), hold=(3, 5), after=30,
        explains=("policy_step_large", "clip_ratio_high", "non_finite", "level_change", "spikes", "reward_collapse"),
        summary="train/actor_grad_norm is {value} times its level of the 50 steps before",
        remedy=LOWER, source=f"Pascanu et al. 2013, arXiv:1211.5063; {MEASURED}: single spikes of 24 to 151 times the "
        "median are healthy",
    ),
    row(
        "gradient_zero", "The gradient is 0", "gradient", WARNING,
        zeros(NORM, 25), after=25,
        explains=("kl_exactly_zero", "clip_never", "frozen_metric"),
        summary="train/actor_grad_norm has been exactly 0 for 25 steps",
        remedy="Nothing is learnt: the advantages are 0 (all samples of a group get the same reward), the parameters "
        "are frozen, or DeepSpeed gives no norm, which OpenRLHF logs as 0: compare with "
        "rlhfd/policy/gradient_norm_mean. --algo.dynamic_filtering_enable skips groups without a signal.",
        source=f"{MEASURED}: 50 of 50 steps of a run that was dead",
        false_positives="A DeepSpeed configuration that computes no norm; a run that has solved its prompts.",
    ),
    row(
        "gradient_vanishes", "The gradient has vanished", "gradient", WARNING,
        (now_below(NORM, 1e-3),), hold=(15, 15), after=30,
        explains=("frozen_metric", "level_change"),
        summary="train/actor_grad_norm is {value} times its level of the 50 steps before",
        remedy="The policy has become deterministic or the reward constant: see entropy and "
        "train/rollout/reward_std; set --actor.entropy_coef or mend the reward.",
        source=OURS,
    ),
    row(
        "gradient_rises", "The gradient rises on and on", "gradient", WARNING,
        (above(NORM, 6.0, "median", 5, "first"), above(NORM, 3.0, "median", 10, "baseline")), hold=(5, 5), after=60,
        explains=("gradient_explodes", "policy_step_large", "level_change"),
        summary="train/actor_grad_norm has risen to {value} times its first level, and still rises",
        remedy="A gradient that rises on is the sign of two engines that disagree: look at rlhfd/mismatch/* and turn "
        "on --algo.advantage.is_correction_level; else lower --actor.adam.lr.",
        source="verl documentation, FAQ; the numbers are our choice",
    ),
    row(
        "gradient_always_clipped", "Every gradient is clipped", "gradient", INFO,
        (above("rlhfd/policy/gradient_norm_mean", Argument(("actor.max_norm", "max_norm"), 5.0), "min", 50),),
        after=50,
        summary="the gradient norm has not been below {value} in 50 steps, five times what it is clipped to",
        remedy="--actor.max_norm decides the size of all steps; raise it and lower --actor.adam.lr instead.",
        source=f"{MEASURED}: healthy runs have it, too",
        false_positives="Large models often train so.",
    ),
    row(
        "supervised_gradient_explodes", "The gradient has exploded in supervised training", "gradient", WARNING,
        (now_times("train/grad_norm", 20.0),), hold=(4, 6), after=30,
        explains=("non_finite", "level_change", "spikes"),
        summary="train/grad_norm is {value} times its level of the 50 steps before",
        remedy="Lower --adam.lr or --max_norm, and look at the batch of the onset step.",
        source="Pascanu et al. 2013, arXiv:1211.5063; the factor is our choice",
    ),
)  # fmt: skip
