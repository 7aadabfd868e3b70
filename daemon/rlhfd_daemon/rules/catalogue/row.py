"""How the rows are made: a rule whose flags are those that its remedy names."""

from __future__ import annotations

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.analyzers.families import Family
from rlhfd_daemon.rules.catalogue.terms import flags_in
from rlhfd_daemon.rules.rule import Clause, Fact, Rule

__all__ = ["row"]


def row(
    name: str,
    title: str,
    family: Family,
    severity: Severity,
    when: tuple[Clause, ...] = (),
    *,
    summary: str,
    remedy: str,
    source: str,
    analyzer: str = "",
    metrics: tuple[str, ...] = (),
    hold: tuple[int, int] = (1, 1),
    after: int = 0,
    critical: float | None = None,
    requires: tuple[Fact, ...] = (),
    excludes: tuple[Fact, ...] = (),
    strictly: tuple[Fact, ...] = (),
    explains: tuple[str, ...] = (),
    false_positives: str = "",
) -> Rule:
    """One row of the catalogue; see :class:`~rlhfd_daemon.rules.rule.Rule`."""
    return Rule(
        id=name,
        title=title,
        family=family,
        severity=severity,
        when=when,
        analyzer=analyzer,
        metrics=metrics,
        hold=hold,
        after=after,
        critical=critical,
        requires=requires,
        excludes=excludes,
        strictly=strictly,
        explains=explains,
        summary=summary,
        remedy=remedy,
        flags=flags_in(remedy),
        source=source,
        false_positives=false_positives,
    )
