"""What is known of single answers' rewards: one row for each kind of issue of docs/reward.md that a run can show."""

from __future__ import annotations

from rlhfd_daemon.analyzers.reward_samples import SUBJECTS, rule_of
from rlhfd_daemon.rewards.issues import KINDS
from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import CRITICAL, INFO, WARNING
from rlhfd_daemon.rules.rule import Rule

__all__ = ["ROWS"]

_SEVERITIES = {
    "constant": CRITICAL, "advantage_reversed": CRITICAL, "over_optimised": CRITICAL, "drifted": INFO,
}  # fmt: skip
# What usually follows.
_EXPLAINS = {
    "constant": ("dead_groups", "reward_constant", "level_change"),
    "shifted": ("level_change", "reward_collapse", "samples_drifted", "samples_spread_changed"),
    "out_of_range": ("level_change", "samples_shifted", "samples_spread_changed", "samples_saturated"),
    "spread_changed": ("level_change", "spread_change"),
    "saturated": ("reward_clipped", "level_change"),
    "follows_length": ("length_hacking", "reward_follows_length", "truncated_often", "trend_change"),
    "follows_repetition": ("repetition_rewarded", "repeated_phrases", "trend_change"),
    "follows_kl": ("reward_follows_kl", "kl_high"),
    "inconsistent": ("samples_unstable",),
    "over_optimised": ("reward_up_eval_down",),
}


def _row(kind: str) -> Rule:
    told, (family, metric) = KINDS[kind], SUBJECTS[kind]
    return row(
        rule_of(kind),
        told.meaning[0].upper() + told.meaning[1:],
        family,
        _SEVERITIES.get(kind, WARNING),
        analyzer="reward",
        metrics=(metric,),
        explains=_EXPLAINS.get(kind, ()),
        summary=told.meaning,
        remedy=told.remedy,
        source=told.source,
    )


ROWS = tuple(map(_row, SUBJECTS))
