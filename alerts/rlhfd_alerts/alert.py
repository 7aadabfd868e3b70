"""What becomes of findings: alerts, their transitions, and the notifications that tell of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum

from rlhfd_alerts.canonical import canonical_json
from rlhfd_alerts.finding import Finding, Severity

__all__ = ["Alert", "AlertState", "Notification", "Transition", "fingerprint", "notification_id"]


class AlertState(str, Enum):
    """Where an alert stands; an alert that does not exist is inactive."""

    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Alert:
    """One condition's life from firing to resolved. Times are unix seconds."""

    fingerprint: str
    finding: Finding  # the one that started it
    starts_at: float
    last_value: float | None
    last_step: int | None
    ends_at: float | None
    state: AlertState


@dataclass(frozen=True, slots=True)
class Transition:
    """An alert entered ``state``; ``record_id`` is the frame-log record at which that was decided."""

    alert: Alert
    state: AlertState
    record_id: int
    time: float


@dataclass(frozen=True, slots=True)
class Notification:
    """One message to every target: the transitions (at least one, as decided) of one rule at one record."""

    id: str
    run: str
    boot: str
    rule: str
    severity: Severity
    state: AlertState
    transitions: tuple[Transition, ...]

    @property
    def lead(self) -> Transition:
        """The transition the message is headed by: the first of the most severe."""
        return max(self.transitions, key=lambda transition: transition.alert.finding.severity.rank)


def fingerprint(finding: Finding) -> str:
    """Return the identity of an alert, by run, boot, rule, metric and labels: 16 hex digits, everywhere the same."""
    labels = [list(pair) for pair in sorted(finding.labels)]
    return _digest([finding.run, finding.boot, finding.rule, finding.metric, labels])[:16]


def notification_id(run: str, boot: str, rule: str, state: AlertState, record_id: int) -> str:
    """Return the ``webhook-id``: the same decision has the same id after a crash, a retry or a replay."""
    return "msg_" + _digest([run, boot, rule, state.value, record_id])[:32]


def _digest(parts: list[object]) -> str:
    return hashlib.sha256(canonical_json(parts)).hexdigest()
