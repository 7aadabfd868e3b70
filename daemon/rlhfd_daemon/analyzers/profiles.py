"""Which changes of a metric matter: in which direction, by how much, and how bad that is. One row a kind of metric."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal, NamedTuple

from rlhfd_alerts.finding import Severity

__all__ = ["PROFILES", "Profile", "profile_of"]

INFO, WARNING = Severity.INFO, Severity.WARNING
NEVER = float("inf")


class Profile(NamedTuple):
    """How a metric of a kind is watched.

    ``up`` and ``down``: how far beyond what was to be expected it must lie before it is worth an alert, as a factor
    (``ratio``), in its own unit (``shift``), or as a share of the range that it has covered (``range``); ``least``: in
    its own unit, at least so far; ``severity_up`` and ``severity_down``. ``log``: noise grows with the value. ``floor``
    is the least standard deviation that counts, in the metric's unit. ``spikes``: single values many times the level
    happen in healthy runs, but not often. ``after``: values before anything counts; ``patience``: how many times longer
    than usual it must last; ``forgiven``: the share of the logarithm of ``up`` and ``down`` that a change need not have
    that lasts three times as long as it must. Not for metrics that go one way all the time, such as entropy.
    """

    patterns: tuple[str, ...]
    measure: Literal["ratio", "shift", "range"] = "ratio"
    up: float = NEVER
    down: float = NEVER
    severity_up: Severity = WARNING
    severity_down: Severity = WARNING
    least: float = 0.0
    log: bool = False
    floor: float = 0.0
    spikes: bool = False
    after: int = 12
    patience: float = 1.0
    forgiven: float = 0.0

    def matters(self, is_up: bool, recent: float, expected: float, covered: float, certainty: float = 1.0) -> bool:
        """Whether ``recent`` lies far enough from ``expected``, of a series that has ``covered`` such a range. What has
        lasted longer than it must (``certainty`` above 1) may be smaller."""
        shift, needed = abs(recent - expected), self.up if is_up else self.down
        if shift < self.least or needed == NEVER:
            return False
        if self.measure == "shift":
            return shift >= needed
        if self.measure == "range":
            return shift >= needed * covered
        needed = math.pow(needed, 1 - self.forgiven * min(certainty - 1, 2.0) / 2)
        return abs(recent) >= needed * abs(expected) if is_up else abs(recent) * needed <= abs(expected)


# The first row with a pattern that matches counts; what matches none is not watched. Why the limits are what they are:
# docs/detection.md.
PROFILES: tuple[Profile, ...] = (
    Profile(("*_lr", "*/lr", "lr", "train/*num_samples", "train/rollout/num_samples")),
    Profile(("train/timing/step_total",), up=1.6, log=True, patience=8.0),
    Profile(("train/timing/*",), up=1.6, severity_up=INFO, log=True, patience=8.0),
    Profile(("rlhfd/ratio_of/*_rest",), up=2.2, log=True, forgiven=0.4),
    Profile(("*mismatch/prob_diff_mean", "*vllm_kl", "rlhfd/mismatch/k1", "rlhfd/mismatch/k3"), up=5.0, least=0.003,
            floor=3e-4),
    Profile(("*is_filter_ratio",), "shift", up=0.02, floor=0.002),
    Profile(("*ppo_kl", "rlhfd/policy_kl/k3"), up=5.0, least=0.01, floor=5e-4),
    Profile(("train/kl", "rlhfd/kl/k3"), up=2.0, least=0.05, floor=0.005, log=True),
    Profile(("train/logprobs_diff", "rlhfd/kl/k1", "rlhfd/kl/max")),
    Profile(("*critic*grad*norm*",), up=6.0, log=True, spikes=True),
    Profile(("*grad_norm*", "rlhfd/*/gradient_norm_mean"), up=3.0, down=5.0, severity_down=INFO, log=True, spikes=True),
    Profile(("train/entropy_loss", "rlhfd/entropy/sampled", "*/entropy"), up=1.5, down=1.7, log=True),
    Profile(("*vf_clipfrac*",)),
    Profile(("*ppo_clip_ratio", "rlhfd/ratio/outside_ratio", "*clipfrac*"), "shift", up=0.05, floor=0.003),
    Profile(("*truncated*", "*response_clip_ratio"), "shift", up=0.1, floor=0.01),
    Profile(("train/*response_length*", "rlhfd/response_length/mean"), up=1.5, down=1.6, log=True, forgiven=0.4),
    Profile(("*critic_loss", "*vf_loss"), up=2.0, log=True, forgiven=0.4),
    Profile(("*reward_std", "rlhfd/reward/std"), up=2.0, down=2.5, log=True, patience=1.3),
    Profile(("*advantage*std",), up=2.0, down=1.6, log=True, forgiven=0.4),
    Profile(("train/reward", "train/rollout/reward_mean", "train/score", "rlhfd/reward/mean"), "range", up=0.35,
            down=0.35, severity_up=INFO),
    Profile(("train/gpt_loss", "train/nll_loss"), "range", up=0.3),
    # Of reward models and DPO; but GRPO elsewhere logs a loss of this name that rises with the KL.
    Profile(("train/loss*",), "range", up=0.3, severity_up=INFO),
    Profile(("train/acc*",), "range", down=0.4),
    Profile(("rlhfd/repetition/*",), "shift", up=0.15, floor=0.01),
    Profile(("rlhfd/reward_call/latency_p50_seconds", "rlhfd/reward_call/latency_mean_seconds"), up=3.0, log=True,
            least=0.5),
    Profile(("rlhfd/*", "eval/*", "phase/*", "vllm/*", "ray/*", "host/*", "disk/*", "gpu/*", "process/*", "cgroup/*",
             "perf/*", "timing*", "train/total_length", "train/values", "train/return", "train/policy_loss",
             "train/chosen_reward", "train/reject_reward", "train/aux_loss")),
)  # fmt: skip
UNKNOWN = Profile(("*",), "range", up=0.5, down=0.5, severity_up=INFO, severity_down=INFO)


@lru_cache(maxsize=4096)  # names come from the wire: bounded
def profile_of(metric: str) -> Profile | None:
    """How ``metric`` is watched; ``None``: not at all. A metric that nobody knows is watched, but nobody is woken."""
    for profile in PROFILES:
        if any(fnmatchcase(metric, pattern) for pattern in profile.patterns):
            return profile if min(profile.up, profile.down) < NEVER else None
    return UNKNOWN
