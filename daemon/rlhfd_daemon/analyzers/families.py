"""The family of an alert: what kind of trouble it is, by the metric that shows it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal, get_args

__all__ = ["FAMILIES", "Family", "family_of"]

Family = Literal[
    "nonfinite", "kl", "entropy", "reward", "hacking", "gradient", "value", "advantage", "length", "clip", "mismatch",
    "throughput", "stall", "schedule", "data", "checkpoint", "system", "action", "custom",
]  # fmt: skip
FAMILIES: tuple[Family, ...] = get_args(Family)

# The first family with a pattern that matches counts.
_PATTERNS: tuple[tuple[Family, tuple[str, ...]], ...] = (
    ("action", ("action/*",)),
    ("system", ("gpu/*", "gpu", "host/*", "disk/*", "process/*", "ray/*", "vllm/*", "actor", "mount", "clock")),
    ("stall", ("heartbeat",)),
    ("checkpoint", ("*checkpoint*", "*ckpt*")),
    ("throughput", ("*timing*", "phase/*", "*_per_second", "*throughput*", "*overhead*", "*_rest", "perf/*",
                    "*step_time", "*padding_ratio", "*packing_*", "*micro_batch*", "*_imbalance", "*/positions",
                    "*fullest_rank", "*sequence_tokens")),
    ("schedule", ("*_lr", "*/lr", "lr", "*learning_rate*")),
    ("gradient", ("*grad_norm*",)),
    ("mismatch", ("*mismatch*", "*vllm_kl*", "*is_filter*", "rollout_corr/*", "*rollout_probs*", "*policy_lag*")),
    ("hacking", ("rlhfd/correlation/*", "rlhfd/repetition/*")),
    ("data", ("*dynamic_filtering*", "*num_samples", "rlhfd/samples", "rlhfd/generation/*", "*filtering*")),
    ("length", ("*length*", "*truncated*", "*response_clip_ratio", "completions/*", "*num_actions", "rlhfd/tokens")),
    ("advantage", ("*advantage*",)),
    ("value", ("*explained_var*", "*critic_loss", "*value*", "*vf_*", "*vpred*")),
    ("reward", ("*reward*", "*score*", "*return*", "*pass1", "*pass[0-9]*", "*/acc", "*acc_mean", "*accurac*",
                "rlhfd/group/*", "val-core/*")),
    ("clip", ("*clip*",)),
    ("entropy", ("*entropy*",)),
    ("kl", ("*kl*", "*logprobs_diff*")),
)  # fmt: skip


@lru_cache(maxsize=4096)  # names come from the wire: bounded
def family_of(metric: str) -> Family:
    """The family of an alert on ``metric`` leaving its usual course; ``custom`` for what no pattern knows."""
    return next(
        (family for family, patterns in _PATTERNS if any(fnmatchcase(metric, pattern) for pattern in patterns)),
        "custom",
    )
