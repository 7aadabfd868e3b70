"""Incidents that tell of actions (docs/actions.md): each joins the episode that it is about."""

from __future__ import annotations

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.analyzers.incident import Incident

__all__ = ["ACTIONS"]


def _row(event: str, summary: str, remedy: str, ends: tuple[str, ...] = ()) -> Incident:
    return Incident(
        begin=event,
        ends=ends,
        rule=event,
        family="action",
        severity=Severity.WARNING,
        metric="action/{name}",
        summary=summary,
        remedy=remedy,
        key=("id",),
        labels=("name", "type"),
    )


ACTIONS: tuple[Incident, ...] = (
    _row(
        "action_requested",
        "action {name}: {text}",
        "It was asked for by [[actions]] of the daemon's configuration, and the run allows it (rlhfd run --allow).",
        ("action_taken", "action_failed"),
    ),
    _row("action_taken", "action {name}: {text}", "It was asked for by [[actions]] of the daemon's configuration."),
    _row(
        "action_failed",
        "action {name} was not carried out: {text}",
        "Do it by hand if it is still needed: it is not tried again in this opening of the episode.",
    ),
    _row(
        "action_dry_run",
        "action {name}, dry run: {text}",
        "With dry_run = false in its section of [[actions]] it is carried out the next time.",
    ),
)
