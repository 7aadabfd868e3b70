"""Why a rule is not looked at in a run: silence of a rule must not pass for health."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rlhfd_daemon.rules.plan import names_match
from rlhfd_daemon.rules.rule import Argument, Rule
from rlhfd_daemon.rules.watching import Run

__all__ = ["Unchecked", "unchecked"]


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
    get = run.facts.get
    for fact in rule.requires:
        if get(fact) is False:
            return f"does not apply: the run is without {_plain(fact)}"
    for fact in rule.excludes:
        if get(fact) is True:
            return f"does not apply: the run is with {_plain(fact)}"
    for fact in rule.strictly:
        if get(fact) is not True:
            known = "is without" if get(fact) is False else "is not known to be with"
            return f"does not apply: the run {known} {_plain(fact)}"
    read = [name for clause in rule.when for name in (clause.signal.metric, clause.signal.by) if name]
    lacking = [name for name in dict.fromkeys(read) if not any(names_match(name, one) for one in names)]
    if not rule.when and not any(names_match(name, one) for name in rule.metrics for one in names):
        lacking = list(rule.metrics[:1])
    if lacking:
        return "not checked: " + "; ".join(_why(run, name) for name in lacking)
    unset = [one.limit for one in rule.when if isinstance(one.limit, Argument) and run.argument(one.limit) is None]
    return f"not checked: the run's --{unset[0].names[0]} is not known" if unset else ""


def _why(run: Run, metric: str) -> str:
    from rlhfd_daemon.rules.absent import why

    return f"key {metric} absent{why(metric, run.facts)}"


def _plain(fact: str) -> str:
    return fact.replace("_", " ")
