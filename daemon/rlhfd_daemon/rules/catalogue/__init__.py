"""The rules that come with rlhfd, one file a family. docs/rules.md is rendered from them."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue import (
    advantage,
    checkpoint,
    clip,
    data,
    entropy,
    filling,
    generic,
    gradient,
    hacking,
    incidents,
    joint,
    kl,
    length,
    mismatch,
    nonfinite,
    reward,
    samples,
    schedule,
    supervised,
    system,
    throughput,
    value,
)
from rlhfd_daemon.rules.rule import Rule

__all__ = ["CATALOGUE", "PAGE", "explains", "find", "url"]

PAGE = "docs/rules.md"
CATALOGUE: tuple[Rule, ...] = (
    *nonfinite.ROWS, *kl.ROWS, *clip.ROWS, *entropy.ROWS, *reward.ROWS, *samples.ROWS, *hacking.ROWS, *joint.ROWS,
    *length.ROWS, *value.ROWS, *gradient.ROWS, *advantage.ROWS, *mismatch.ROWS, *throughput.ROWS,
    *filling.ROWS, *data.ROWS, *schedule.ROWS, *supervised.ROWS, *system.ROWS, *incidents.ROWS, *checkpoint.ROWS,
    *generic.ROWS,
)  # fmt: skip
_BY_ID = {rule.id: rule for rule in CATALOGUE}


def find(rule_id: str) -> Rule | None:
    """The rule of that id."""
    return _BY_ID.get(rule_id)


def explains(rule_id: str) -> tuple[str, ...]:
    """The ids of the rules whose findings usually follow from this one's; none for a rule that is not known."""
    rule = _BY_ID.get(rule_id)
    return () if rule is None else rule.explains


def url(rule_id: str) -> str:
    """Where the rule is described, relative to the project."""
    return f"{PAGE}#{rule_id}"
