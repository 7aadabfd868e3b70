"""Entropy of the policy: gone, rising, or going up together with the length."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import (
    ENTROPY,
    INFO,
    LENGTH,
    MEASURED,
    OURS,
    REWARD,
    WARNING,
    above,
    below,
    fallen,
    now_below,
    now_times,
    times,
)

__all__ = ["ROWS"]

SAMPLED = "rlhfd/entropy/sampled"
CUI = "Cui et al. 2025 (The Entropy Mechanism of RL for Reasoning Language Models), arXiv:2505.22617"
EXPLORE = (
    "The policy no longer explores. Set --actor.entropy_coef, raise the upper clip bound "
    "(--actor.eps_clip_low_high 0.2 0.28) or --rollout.temperature, or lower --actor.adam.lr; resume from before the "
    "fall, a collapsed policy seldom recovers."
)
NOISE = (
    "The policy loses its signal: look at samples for garbage, at the reward since the onset, and at the weight sync "
    "(rlhfd/mismatch/*); lower --actor.adam.lr. A large --actor.entropy_coef does the same."
)

ROWS = (
    row(
        "entropy_low", "Most of the entropy is used up", "entropy", INFO,
        (now_below(ENTROPY, 0.1, "first"),), hold=(8, 10), after=30,
        explains=("dead_groups",),
        summary="train/entropy_loss has fallen to {value} of its first level",
        remedy=EXPLORE, source=f"{CUI}: what is gained is paid in entropy; {MEASURED}: healthy runs use 40 to 95 %",
        false_positives="Runs that end well use most of their entropy.",
    ),
    row(
        "sampled_entropy_low", "Most of the sampled entropy is used up", "entropy", INFO,
        (now_below(SAMPLED, 0.1, "first"),), hold=(8, 10), after=30,
        explains=("dead_groups",),
        summary="rlhfd/entropy/sampled has fallen to {value} of its first level",
        remedy=EXPLORE, source=f"{CUI}; the same for runs without --actor.entropy_coef",
    ),
    row(
        "entropy_vanished", "The policy has become deterministic", "entropy", WARNING,
        (below(ENTROPY, 0.005),), hold=(5, 5), after=5,
        explains=("dead_groups", "reward_constant", "gradient_zero", "advantage_zero", "dead_run"),
        summary="train/entropy_loss is {value} nats per token: all samples of a prompt are the same",
        remedy=EXPLORE, source=f"{MEASURED}: healthy runs end at 0.02 or more",
    ),
    row(
        "sampled_entropy_vanished", "The samples are deterministic", "entropy", WARNING,
        (below(SAMPLED, 0.005),), hold=(5, 5), after=5,
        explains=("dead_groups", "reward_constant", "gradient_zero", "advantage_zero", "dead_run"),
        summary="rlhfd/entropy/sampled is {value} nats per token: all samples of a prompt are the same",
        remedy=EXPLORE, source=f"{MEASURED}: healthy runs end at 0.02 or more",
        false_positives="A --rollout.temperature near 0.",
    ),
    row(
        "entropy_down_reward_down", "Entropy falls and the reward with it", "entropy", WARNING,
        (now_below(ENTROPY, 0.6), fallen(REWARD, 0.5)), hold=(4, 6), after=55,
        explains=("dead_groups", "entropy_low"),
        summary="train/entropy_loss is {value} times its level of the last 50 steps, and the reward has lost half of "
        "what it had gained",
        remedy=EXPLORE, source=f"{CUI}: entropy is traded for reward; without reward it is collapse. Numbers: {OURS}",
    ),
    row(
        "entropy_up_length_up", "Entropy and length rise together", "entropy", WARNING,
        (now_times(ENTROPY, 1.4), times(LENGTH, 1.3)), hold=(4, 6), after=55,
        explains=("truncated_often", "length_up_reward_down", "level_change"),
        summary="train/entropy_loss is {value} times its level of the last 50 steps, and answers become longer",
        remedy=NOISE, source="verl-project/verl#1066, verl-project/verl#2738; the numbers are our choice",
    ),
    row(
        "entropy_up_reward_down", "Entropy rises and the reward falls", "entropy", WARNING,
        (now_times(ENTROPY, 1.4), fallen(REWARD, 0.5)), hold=(4, 6), after=55,
        explains=("level_change",),
        summary="train/entropy_loss is {value} times its level of the last 50 steps, and the reward has lost half of "
        "what it had gained",
        remedy=NOISE, source="verl-project/verl#2738, rllm-org/rllm#116; the numbers are our choice",
    ),
    row(
        "entropy_extreme", "The policy writes noise", "entropy", WARNING,
        (above(ENTROPY, 7.0),), hold=(3, 5), after=3,
        explains=("truncated_often", "all_at_the_cap"),
        summary="train/entropy_loss is {value} nats per token: as many likely tokens as e to that power",
        remedy=NOISE, source=f"{OURS}: a language model's text has 0.02 to 3.5 nats per token in healthy runs",
        false_positives="Training from random weights.",
    ),
)  # fmt: skip
