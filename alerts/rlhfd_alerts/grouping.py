"""Which transitions share one notification."""

from __future__ import annotations

from collections.abc import Iterable

from rlhfd_alerts.alert import AlertState, Notification, Transition, notification_id

__all__ = ["group"]

_Key = tuple[int, str, str, str, AlertState]


def group(transitions: Iterable[Transition]) -> tuple[Notification, ...]:
    """Return one notification per (record, run, boot, rule, state).

    Notifications are in order of their first transition; transitions keep the order they were decided in.
    """
    groups: dict[_Key, list[Transition]] = {}
    for transition in transitions:
        finding = transition.alert.finding
        key = (transition.record_id, finding.run, finding.boot, finding.rule, transition.state)
        groups.setdefault(key, []).append(transition)
    return tuple(_notification(key, tuple(members)) for key, members in groups.items())


def _notification(key: _Key, transitions: tuple[Transition, ...]) -> Notification:
    record_id, run, boot, rule, state = key
    return Notification(
        id=notification_id(run, boot, rule, state, record_id),
        run=run,
        boot=boot,
        rule=rule,
        severity=max((t.alert.finding.severity for t in transitions), key=lambda severity: severity.rank),
        state=state,
        transitions=transitions,
    )
