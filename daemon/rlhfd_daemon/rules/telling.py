"""What a rule says when it begins and ends: its template filled in, as a finding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.series import at_step, labels
from rlhfd_daemon.rules.evaluate import Question, Scope
from rlhfd_daemon.rules.rule import Rule
from rlhfd_daemon.sample import Sample

__all__ = ["PLACEHOLDERS", "begun", "ended", "fill", "placeholders_in"]

PLACEHOLDERS = ("metric", "value", "limit", "baseline", "step", "run")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def fill(template: str, values: Mapping[str, object]) -> str:
    """``template`` with ``{name}`` replaced, numbers to four digits. A name that is not known stays as it is."""

    def one(found: re.Match[str]) -> str:
        if found.group(1) not in values:
            return found.group(0)
        value = values[found.group(1)]
        if value is None:
            return "unknown"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return _PLACEHOLDER.sub(one, template)


def placeholders_in(template: str) -> list[str]:
    """The names in braces, in order."""
    return _PLACEHOLDER.findall(template)


def begun(
    rule: Rule, question: Question, scope: Scope, sample: Sample, severity: Severity, onset: tuple[int | None, float]
) -> Finding:
    """The finding that ``rule`` begins with; ``question`` is its first clause."""
    history = scope.history
    baseline = question.baseline(scope)
    limit = rule.critical if severity is Severity.CRITICAL and rule.critical is not None else question.limit(scope)
    said: dict[str, object] = {
        "metric": sample.name,
        "value": question.number(scope),
        "limit": limit,
        "baseline": baseline,
        "step": sample.step,
        "run": sample.run,
        **{f"labels.{name}": value for name, value in rule.labels},
    }
    return Finding(
        run=sample.run,
        boot=sample.boot,
        rule=rule.id,
        family=rule.family,
        metric=sample.name,
        severity=severity,
        active=True,
        step=sample.step,
        time=sample.time,
        value=sample.value,
        baseline=baseline,
        onset_step=onset[0],
        onset_time=onset[1],
        summary=fill(rule.summary, said),
        remedy=fill(rule.remedy, said) if "{" in rule.remedy else rule.remedy,
        evidence=history.evidence(),
        labels=(*labels(sample), *rule.labels),
    )


def ended(finding: Finding, sample: Sample, text: str = "") -> Finding:
    """The end of what ``finding`` began."""
    said = text or f"{finding.metric} is {sample.value:.4g} {at_step(sample.step)}: no longer so"
    return replace(finding, active=False, step=sample.step, time=sample.time, value=sample.value, summary=said)
