"""What to do about a metric that left its level, by the metric's OpenRLHF key."""

from __future__ import annotations

from fnmatch import fnmatchcase

# The first pattern that matches counts. Sources: OpenRLHF issues and papers collected per metric.
_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        "*reward_std*",
        "If the spread fell to 0 the reward no longer tells answers apart and the policy gets no signal: check what "
        "the reward function or service returns (errors turned into a constant?), and --algo.dynamic_filtering_enable.",
    ),
    (
        "*advantage*",
        "If the advantages shrank to 0, the rewards of a group no longer differ and nothing is learnt: look at "
        "train/rollout/reward_std and the reward function. If they grew, look for outliers of the reward.",
    ),
    (
        "rlhfd/ratio_of/*_rest",
        "One phase takes longer than the others. Generation: longer answers, slow reward calls, or an engine that "
        "shares its GPU (rlhfd/engine, rlhfd/reward_call); training: a slow rank (phase/ppo_train/slowest_rank).",
    ),
    ("*mismatch*", "The engine samples from other weights than are trained: check the weight sync to vLLM."),
    (
        "*reward*",
        "Read samples from before and after. A jump without better answers is reward hacking or a changed reward "
        "service: fix the reward, raise --algo.kl.init_coef, or lower --actor.adam.lr.",
    ),
    (
        "*entropy*",
        "Falling entropy is collapse: set --actor.entropy_coef, raise --rollout.temperature or lower --actor.adam.lr. "
        "Rising entropy with a flat reward is a lost signal: check the reward.",
    ),
    ("*vllm_kl*", "The engine samples from other weights than are trained: check the weight sync to vLLM."),
    ("*kl*", "The policy is leaving the reference: raise --algo.kl.init_coef or lower --actor.adam.lr."),
    ("*critic*", "The critic does not follow its targets: lower --critic.adam.lr or check the scale of the rewards."),
    ("*values*", "The critic does not follow its targets: lower --critic.adam.lr or check the scale of the rewards."),
    ("*grad_norm*", "Lower --actor.adam.lr or --actor.max_norm, and look at the batch of that step."),
    ("*clip_ratio*", "Updates are too large for the clip range: lower --actor.adam.lr or --train.max_epochs."),
    ("*length*", "Answers changed length: look for a length reward, and check --rollout.max_new_tokens."),
    (
        "*truncated*",
        "Answers hit the cap: raise --rollout.max_new_tokens or penalise length (--reward.overlong_buffer_len).",
    ),
)
_DEFAULT = "Compare with the run's other metrics at the onset step; the one that moved first is the likely cause."


def remedy(metric: str) -> str:
    """A sentence on what to look at or change, naming the OpenRLHF flag where there is one."""
    return next((text for pattern, text in _REMEDIES if fnmatchcase(metric, pattern)), _DEFAULT)
