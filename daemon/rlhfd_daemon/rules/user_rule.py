"""One rule of a user: from its table in the file to the rule that it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.rules.rule import Clause, Rule, Signal
from rlhfd_daemon.rules.selection import hold_of
from rlhfd_daemon.rules.telling import placeholders_in
from rlhfd_daemon.rules.user_fields import CONDITION_FIELDS, RULE_FIELDS, Fault, condition_of, faults_in, nearest

__all__ = ["rule_faults", "rule_of"]

SOURCE = "a rule of the user"
LEAST_WINDOW = {"std": 2, "slope": 3, "drawdown": 2}


def rule_faults(table: Mapping[str, Any]) -> list[Fault]:
    """Everything that is wrong with one ``[[rule]]``."""
    faults = faults_in(table, RULE_FIELDS, ("id", "metric", "condition"))
    broken = {fault.path[0] for fault in faults}
    faults += _contradictions(table, broken)
    if "critical" in table and not broken & {"critical", "condition"}:
        faults += _critical(table)
    for number, condition in enumerate(table.get("and", ()) if "and" not in broken else ()):
        inner = faults_in(condition, CONDITION_FIELDS, ("metric", "condition"))
        inner += _contradictions(condition, {fault.path[0] for fault in inner})
        faults += [Fault(("and", number, *fault.path), fault.message) for fault in inner]
    known = list(table["labels"]) if "labels" in table and "labels" not in broken else []
    for field in ("summary", "remedy"):
        if field in table and field not in broken:
            faults += [Fault((field,), message) for message in _labels_used(table[field], known)]
    return faults


def rule_of(table: Mapping[str, Any]) -> Rule:
    """The rule that a ``[[rule]]`` without faults means."""
    clauses = tuple(_clause(one) for one in (table, *table.get("and", ())))
    said = "{metric} is {value} at step {step} (" + str(table["condition"]).strip() + ")"
    return Rule(
        id=table["id"],
        title=table["id"],
        family=table.get("family", "custom"),
        severity=Severity(table.get("severity", "warning")),
        when=clauses,
        metrics=tuple(dict.fromkeys(clause.signal.metric for clause in clauses)),
        hold=hold_of(table.get("for", 1)) or (1, 1),
        keep=table.get("keep_firing_for", 0),
        after=table.get("after", 0),
        critical=float(table["critical"]) if "critical" in table else None,
        summary=table.get("summary", said),
        remedy=table.get("remedy", ""),
        source=SOURCE,
        missing=table.get("missing", "unknown"),
        runs=tuple(table.get("runs", ())),
        labels=tuple(table.get("labels", {}).items()),
    )


def _clause(table: Mapping[str, Any]) -> Clause:
    condition = condition_of(table["condition"])
    assert condition is not None
    signal = Signal(
        metric=table["metric"],
        take=table.get("aggregation", "last"),
        over=table.get("window", 1),
        against=table.get("against", "value"),
        by=table.get("times", ""),
        absolute=table.get("absolute", False),
    )
    return Clause(signal, *condition)


def _contradictions(table: Mapping[str, Any], broken: set[str | int]) -> Iterator[Fault]:
    if broken & {"aggregation", "window"}:
        return
    aggregation, window = table.get("aggregation", "last"), table.get("window", 1)
    if aggregation == "last" and window > 1:
        yield Fault(("window",), 'needs an aggregation over it, such as aggregation = "mean"')
    if aggregation != "last" and "window" not in table:
        yield Fault(("aggregation",), "needs a window: over how many values")
    elif window < LEAST_WINDOW.get(aggregation, 1):
        yield Fault(("window",), f"{aggregation} needs at least {LEAST_WINDOW[aggregation]} values")


def _critical(table: Mapping[str, Any]) -> Iterator[Fault]:
    operator, limit = condition_of(table["condition"]) or ("==", 0.0)
    if operator in ("==", "!="):
        yield Fault(("critical",), 'needs a condition with < or >; here severity = "critical" says it')
    elif (table["critical"] < limit) if operator[0] == ">" else (table["critical"] > limit):
        yield Fault(("critical",), f"is reached before the condition itself ({table['condition'].strip()})")


def _labels_used(template: str, known: list[str]) -> Iterator[str]:
    for name in placeholders_in(template):
        label = name.removeprefix("labels.")
        if label != name and label not in known:
            yield f"{{{name}}} is no label of this rule; {nearest(label, known, 'its labels')}"
