"""Metrics that leave their courses together: one row for each pattern that is known."""

from __future__ import annotations

from rlhfd_daemon.analyzers.joint import PATTERNS, Pattern
from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import OURS, WARNING
from rlhfd_daemon.rules.rule import Rule

__all__ = ["ROWS"]

# Title, source, and what usually follows.
_MORE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "hacking_drift": (
        "Reward, KL and length leave their courses together",
        "Gao et al. 2022, arXiv:2210.10760; Singhal et al. 2023, arXiv:2310.03716",
        ("reward_kl_length_up", "reward_up_eval_down", "truncated_often", "kl_high", "level_change", "trend_change"),
    ),
    "kl_without_reward": (
        "KL rises faster than before while the reward falls",
        "rllm-org/rllm#94, huggingface/open-r1#255",
        ("kl_up_reward_flat", "kl_high", "reward_collapse", "level_change", "trend_change"),
    ),
    "entropy_and_length": (
        "Entropy and length leave their courses together",
        "verl-project/verl#1066, verl-project/verl#2738",
        ("entropy_up_length_up", "length_doubled", "truncated_often", "level_change", "trend_change"),
    ),
    "mismatch_and_gradient": (
        "Mismatch and gradient leave their courses together",
        "verl documentation, FAQ",
        ("gradient_and_mismatch_rise", "engine_kl_high", "gradient_explodes", "level_change", "trend_change"),
    ),
}


def _row(pattern: Pattern) -> Rule:
    title, source, explains = _MORE.get(pattern.rule, (pattern.says, OURS, ()))
    return row(
        pattern.rule,
        title,
        pattern.family,
        WARNING,
        analyzer="joint",
        metrics=tuple(part.metrics[0] for part in pattern.parts),
        explains=explains,
        summary=pattern.says,
        remedy=pattern.remedy,
        source=source,
    )


ROWS = tuple(map(_row, PATTERNS))
