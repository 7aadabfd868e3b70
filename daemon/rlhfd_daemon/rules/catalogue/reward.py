"""Rewards that say nothing, fall, or do not come."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import (
    INFO,
    MEASURED,
    OURS,
    REWARD,
    REWARD_SPREAD,
    WARNING,
    above,
    below,
    every_below,
    fallen,
    zeros,
)

__all__ = ["ROWS"]

ROUNDING = 1e-5  # equal rewards have a standard deviation of some 1e-7 in float32
TELLS_NOTHING = (
    "The reward no longer tells answers apart, and nothing is learnt: look at what the reward function or service "
    "returns (errors turned into a constant?). If every prompt is solved, take harder ones; "
    "--algo.dynamic_filtering_enable draws prompts until groups differ."
)
SERVICE = (
    "Look at the reward service and its log (--reward.remote_url): load, timeouts, restarts. OpenRLHF only logs a "
    "failed call, and a sample without a reward ends the run."
)

ROWS = (
    row(
        "dead_groups", "Most prompts teach nothing", "reward", WARNING,
        (above("rlhfd/group/zero_std_ratio", 0.95, "mean", 40),), hold=(3, 5), after=40, critical=0.995,
        requires=("groups",),
        explains=("gradient_zero", "advantage_zero", "clip_never", "dead_run"),
        summary="in {value} of the groups all samples get the same reward (mean of 40 steps)",
        remedy=TELLS_NOTHING + " More samples a prompt help, too (--rollout.n_samples_per_prompt).",
        source=f"Yu et al. 2025 (DAPO), arXiv:2503.14476; {MEASURED}: 1.0 in a run that was dead; batches of 2 to 4 "
        "samples need the mean of many steps",
        false_positives="The end of a run that has solved its prompts.",
    ),
    row(
        "reward_constant", "All samples get the same reward", "reward", WARNING,
        (*zeros(REWARD_SPREAD, 8, ROUNDING), above("train/rollout/num_samples", 31.0)), after=8,
        explains=(
            "gradient_zero", "advantage_zero", "dead_groups", "frozen_metric", "entropy_up_reward_down", "dead_run",
        ),
        summary="train/rollout/reward_std has been 0 for 8 steps: all samples get the same reward",
        remedy=TELLS_NOTHING, source="deepspeedai/DeepSpeedExamples#586; steps and samples are our choice",
        false_positives="The end of a run that has solved its prompts.",
    ),
    row(
        "reward_constant_long", "All samples have got the same reward for long", "reward", WARNING,
        (*zeros(REWARD_SPREAD, 40, ROUNDING), below(REWARD, ROUNDING, "std", 40)), after=40,
        explains=("gradient_zero", "advantage_zero", "dead_groups"),
        summary="train/rollout/reward_std has been 0 for 40 steps, and the mean the same: all samples get one reward",
        remedy=TELLS_NOTHING, source=f"deepspeedai/DeepSpeedExamples#586; {OURS}",
        false_positives="Batches of one or two samples that are nearly always right.",
    ),
    row(
        "group_reward_constant", "The samples of a prompt get the same reward", "reward", WARNING,
        zeros("train/group_reward_std", 25, ROUNDING), after=25, requires=("groups",),
        explains=("gradient_zero", "advantage_zero"),
        summary="train/group_reward_std has been 0 for 25 steps: within each group all samples get the same reward",
        remedy=TELLS_NOTHING, source=f"Yu et al. 2025 (DAPO), arXiv:2503.14476; {OURS}",
        false_positives="One or two prompts a step that are nearly always solved.",
    ),
    row(
        "group_spread_low", "Rewards within groups differ far less than before", "reward", WARNING,
        (below("train/group_reward_std", 0.25, "mean", 10, "baseline"), every_below("train/group_reward_std", 0.6, 5)),
        hold=(4, 5), after=60, requires=("groups",),
        explains=("gradient_vanishes", "group_reward_constant", "advantage_spread_low", "dead_groups"),
        summary="train/group_reward_std is {value} times its level of the 50 steps before",
        remedy=TELLS_NOTHING, source=f"Shao et al. 2024 (GRPO), arXiv:2402.03300; {OURS}",
        false_positives="A change of data.",
    ),
    row(
        "reward_spread_low", "Rewards hardly differ any more", "reward", INFO,
        (below(REWARD_SPREAD, 0.1, "last", 1, "first"),), hold=(20, 20), after=30,
        explains=("dead_groups",),
        summary="train/rollout/reward_std has fallen to {value} of its first level",
        remedy=TELLS_NOTHING, source=OURS, false_positives="A run that has solved its prompts.",
    ),
    row(
        "reward_collapse", "The reward has collapsed", "reward", WARNING,
        (fallen(REWARD, 0.7), below(REWARD, 0.25, "mean", 20, "baseline"), every_below(REWARD, 0.7, 8)),
        hold=(4, 5), after=60,
        explains=("dead_groups", "level_change", "entropy_up_reward_down", "kl_up_reward_flat"),
        summary="the reward has lost {value} of the range that it had covered, and is at a quarter of its level of the "
        "50 steps before",
        remedy="Read samples from before and after: garbage is a broken policy (lower --actor.adam.lr, resume with "
        "--ckpt.load_enable), good answers are a broken reward.",
        source="huggingface/open-r1#255, huggingface/open-r1#257, huggingface/trl#41; the numbers are our choice",
        false_positives="A change of data, such as the next stage of a curriculum.",
    ),
    row(
        "reward_clipped", "Rewards reach the clip range", "reward", WARNING,
        (above("rlhfd/reward/clipped_ratio", 0.2),), hold=(5, 10), after=5,
        explains=("explained_variance_negative",),
        summary="the rewards of {value} of the samples are at or beyond the clip range: they no longer differ there",
        remedy="Rescale the rewards, use --reward.normalize_enable, or widen --reward.clip_range.",
        source=f"Huang et al. 2024, arXiv:2403.17031; {OURS}",
        false_positives="A reward that is meant to be -10 or 10.",
    ),
    row(
        "reward_calls_fail", "Reward calls fail", "reward", WARNING,
        (above("rlhfd/reward_call/failed_ratio", 0.01),), hold=(2, 3), critical=0.5,
        explains=("reward_missing", "non_finite"),
        summary="{value} of the reward calls fail", remedy=SERVICE,
        source=f"openrlhf/utils/agent.py, which only logs errors; {OURS}",
    ),
    row(
        "reward_calls_retried", "Reward calls are tried again and again", "reward", INFO,
        (above("rlhfd/reward_call/retries", 0.0),), hold=(8, 10),
        explains=("reward_call_slow", "reward_calls_fail", "step_slow", "generation_share_high"),
        summary="reward calls needed {value} retries",
        remedy=SERVICE, source="openrlhf/utils/agent.py: 5 attempts",
    ),
    row(
        "reward_call_slow", "Reward calls have become slow", "reward", WARNING,
        (above("rlhfd/reward_call/latency_p99_seconds", 10.0),
         above("rlhfd/reward_call/latency_p99_seconds", 5.0, "median", 3, "baseline")),
        hold=(3, 5), after=25,
        explains=("step_slow", "generation_share_high", "stalled_phase", "level_change"),
        summary="the 99th percentile of reward calls takes {value} s, five times as long as before",
        remedy=SERVICE, source=f"Dean and Barroso 2013, The Tail at Scale; {OURS}",
    ),
    row(
        "reward_call_slower", "Reward calls take several times as long as before", "reward", WARNING,
        (above("rlhfd/reward_call/latency_p50_seconds", 0.1),
         above("rlhfd/reward_call/latency_p50_seconds", 4.0, "median", 3, "baseline")),
        hold=(4, 5), after=15,
        explains=("reward_call_slow", "step_slow", "generation_share_high", "level_change"),
        summary="half of the reward calls take {value} s or longer, four times as long as before",
        remedy=SERVICE, source=OURS,
        false_positives="Answers that have become several times as long.",
    ),
    row(
        "reward_call_near_timeout", "Reward calls come close to their timeout", "reward", WARNING,
        (above("rlhfd/reward_call/latency_max_seconds", 120.0),
         above("rlhfd/reward_call/retries", -1.0)),
        hold=(2, 3),
        explains=("reward_calls_fail", "reward_failed", "step_slow"),
        summary="a call of the remote reward model took {value} s; one attempt may take 180 s",
        remedy=SERVICE, source="openrlhf/utils/agent.py: an attempt times out after 180 s",
        false_positives="Several short attempts together.",
    ),
    row(
        "reward_call_hangs", "A reward call does not return", "stall", WARNING,
        (above("rlhfd/reward_call/oldest_seconds", 900.0),), hold=(2, 3), critical=3600.0,
        explains=("stalled_phase", "step_slow"),
        summary="a reward call has been under way for {value} s",
        remedy="Give the reward function a timeout of its own, and look at what it waits for (py-spy dump of the "
        "rollout actor). Nothing in OpenRLHF ends it.",
        source=f"openrlhf/utils/agent.py, which waits without limit for a function; {OURS}",
        false_positives="Agents whose steps take that long.",
    ),
)  # fmt: skip
