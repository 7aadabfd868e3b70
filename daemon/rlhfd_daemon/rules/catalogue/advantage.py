"""Advantages: none, one-sided, or of something else than the reward."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import INFO, OURS, WARNING, above, below, zeros

__all__ = ["ROWS"]

JONES = "Jones 2021, Debugging RL, Without the Agonizing Pain: within ±10, ideally within ±3"

ROWS = (
    row(
        "advantage_zero", "All advantages are 0", "advantage", WARNING,
        zeros("rlhfd/advantage/abs_mean", 25, 1e-6), after=25,
        explains=("gradient_zero", "clip_never", "kl_exactly_zero"),
        summary="the advantages have been 0 for 25 steps: nothing is learnt",
        remedy="All samples of each prompt get the same reward: look at the reward, and use "
        "--algo.dynamic_filtering_enable or more samples (--rollout.n_samples_per_prompt).",
        source="openrlhf/cli/train_ppo_ray.py: with one sample a group every advantage is 0",
    ),
    row(
        "advantage_without_reward", "Advantages do not follow the rewards", "advantage", WARNING,
        (below("rlhfd/correlation/advantage_reward", 0.1),), hold=(8, 10), after=10, critical=-0.3,
        excludes=("critic",),
        explains=("reward_collapse", "level_change"),
        summary="advantages and rewards of the samples correlate with {value} only",
        remedy="Without a critic the advantage is the reward less a baseline: look for an agent or a reward function "
        "that returns other rewards than it scores, for a KL penalty larger than the reward "
        "(--algo.kl.init_coef), and for --algo.advantage.gamma below 1 over long answers.",
        source=OURS,
        false_positives="Groups whose prompts differ far more than the answers to one prompt.",
    ),
    row(
        "advantage_outliers", "Single advantages outweigh all others", "advantage", INFO,
        (above("rlhfd/advantage/outlier_ratio", 0.02),), hold=(5, 10), after=10,
        explains=("gradient_explodes", "spikes"),
        summary="{value} of the tokens have an advantage of more than 5 standard deviations",
        remedy="Look for outliers of the reward; --reward.clip_range and --reward.normalize_enable bound them.",
        source=f"{JONES}; the share is our choice",
        false_positives="Rare successes at hard prompts.",
    ),
    row(
        "advantage_biased", "Advantages have a bias", "advantage", INFO,
        (above("rlhfd/advantage/trained_mean", 0.3, absolute=True),), hold=(8, 10), after=10,
        explains=("entropy_low",),
        summary="the mean advantage as trained on is {value} away from 0",
        remedy="All actions are pushed the same way. With gae, reinforce and reinforce_baseline OpenRLHF whitens: "
        "report its version; with group estimators long and short answers weigh differently: compare "
        "--algo.advantage.estimator dr_grpo.",
        source="OpenRLHF/OpenRLHF#856; the limit is our choice",
    ),
    row(
        "advantage_spread_low", "The advantages have shrunk", "advantage", INFO,
        (below("rlhfd/advantage/std", 0.05, "last", 1, "first"),), hold=(20, 20), after=30,
        explains=("gradient_vanishes",),
        summary="the spread of the advantages before whitening has fallen to {value} of its first level",
        remedy="Rewards hardly differ: see dead_groups. Where advantages are whitened, noise is blown up to full size: "
        "--algo.advantage.no_std_norm leaves their size.",
        source=OURS, false_positives="A run that has solved its prompts.",
    ),
)  # fmt: skip
