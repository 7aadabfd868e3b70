"""What an alert on an event is made of."""

from __future__ import annotations

from dataclasses import dataclass

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.analyzers.families import Family
from rlhfd_daemon.runs import DAEMON_ROLE

__all__ = ["Incident"]

_DAEMON = frozenset({DAEMON_ROLE})


@dataclass(frozen=True)
class Incident:
    """One row. ``summary`` and ``metric`` are templates over the event's fields, ``key`` the fields that tell two
    incidents of one run apart, ``labels`` further fields that the alert shows, ``value`` the field that is its number.
    Without ``ends`` it ends by itself some time after it last happened. A field ``critical`` raises the severity.
    With ``only`` it begins only where that field is true. ``roles`` ``None``: whoever says it."""

    begin: str
    rule: str
    family: Family
    severity: Severity
    metric: str
    summary: str
    remedy: str
    ends: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    value: str = ""
    only: str = ""
    roles: frozenset[str] | None = _DAEMON
