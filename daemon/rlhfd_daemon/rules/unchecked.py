"""Why a rule is not looked at in a run: silence of a rule must not pass for health."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rlhfd_daemon.metrics import find
from rlhfd_daemon.rules.absent import why
from rlhfd_daemon.rules.plan import names_match
from rlhfd_daemon.rules.rule import Argument, Fact, Rule
from rlhfd_daemon.rules.watching import Run

__all__ = ["Unchecked", "unchecked"]


_WORDS: dict[Fact, str] = {
    "critic": "a critic",
    "reference_model": "a reference model",
    "reward_model": "a reward model",
    "inner_epochs": "several optimizer steps for each rollout",
    "groups": "several answers for each prompt",
    "length_cap": "a cap on the length of answers",
    "async": "asynchronous rollouts",
    "kl_in_loss": "the KL in the loss",
    "supervised": "supervised training",
}


class Unchecked(NamedTuple):
    """One rule and why it is not looked at."""

    rule: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.reason}"


def unchecked(run: Run, selected: Iterable[tuple[Rule, str]]) -> list[Unchecked]:
    """Those of the ``selected`` rules that are not looked at in ``run``; the second of each is a reason that the
    configuration gives, or empty."""
    names = {name for _, _, name in run.series}
    reasons = ((rule, reason or _reason(run, rule, names)) for rule, reason in selected)
    return [Unchecked(rule.id, reason) for rule, reason in reasons if reason]


def _reason(run: Run, rule: Rule, names: set[str]) -> str:
    return _context(run, rule) or _lacking(run, rule, names) or _unset(run, rule)


def _context(run: Run, rule: Rule) -> str:
    get = run.facts.get
    for fact in (*rule.requires, *rule.strictly):
        if get(fact) is False:
            return f"does not apply: it is for runs with {_WORDS[fact]}"
    for fact in rule.excludes:
        if get(fact) is True:
            return f"does not apply: it is for runs without {_WORDS[fact]}"
    unknown = [_WORDS[fact] for fact in rule.strictly if get(fact) is None]
    return f"not checked: whether this run has {unknown[0]} is not known without its arguments" if unknown else ""


def _lacking(run: Run, rule: Rule, names: set[str]) -> str:
    def is_there(metric: str) -> bool:
        return any(names_match(metric, name) for name in names)

    if rule.when:
        read = [name for clause in rule.when for name in (clause.signal.metric, clause.signal.by) if name]
        lacking = [name for name in dict.fromkeys(read) if not is_there(name)]
    else:  # decided by an analyzer, perhaps from events: then there is no metric to wait for
        known = [name for name in rule.metrics if find(name) is not None]
        lacking = known[:1] if not any(map(is_there, known)) else []
    return f"not checked: {'; '.join(_why(run, name) for name in lacking)}" if lacking else ""


def _unset(run: Run, rule: Rule) -> str:
    limits = [clause.limit for clause in rule.when if isinstance(clause.limit, Argument)]
    unset = [limit.names[0] for limit in limits if run.argument(limit) is None]
    return f"not checked: the run's --{unset[0]} is not known" if unset else ""


def _why(run: Run, metric: str) -> str:
    return f"key {metric} absent{why(metric, run.facts)}"
