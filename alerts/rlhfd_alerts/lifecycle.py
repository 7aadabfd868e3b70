"""When an alert starts and ends: inactive, firing, resolved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rlhfd_alerts.alert import Alert, AlertState, Transition, fingerprint
from rlhfd_alerts.finding import Finding

__all__ = ["Lifecycle"]


class Lifecycle:
    """The alerts that are firing. Pure: time and record ids come with the findings.

    Resolved alerts are forgotten, so what is held is bounded by what is wrong at the moment.
    """

    def __init__(self) -> None:
        self._firing: dict[str, Alert] = {}

    @property
    def firing(self) -> tuple[Alert, ...]:
        """The firing alerts, oldest first."""
        return tuple(self._firing.values())

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Take up after a restart: replace what is held by those of ``alerts`` that are firing."""
        self._firing = {alert.fingerprint: alert for alert in alerts if alert.state is AlertState.FIRING}

    def observe(self, finding: Finding, record_id: int) -> Transition | None:
        """Return the transition that ``finding`` causes, ``None`` if it only confirms what is known.

        A higher severity than the alert has is a transition, too: it fires again, with the onset it had.
        """
        key = fingerprint(finding)
        alert = self._firing.get(key)
        if alert is None:
            return self._start(key, finding, record_id) if finding.active else None
        latest = replace(alert, last_value=finding.value, last_step=finding.step)
        if finding.active:
            is_worse = finding.severity.rank > alert.finding.severity.rank
            self._firing[key] = _raised(latest, finding) if is_worse else latest
            return Transition(self._firing[key], AlertState.FIRING, record_id, finding.time) if is_worse else None
        del self._firing[key]
        resolved = replace(latest, state=AlertState.RESOLVED, ends_at=finding.time)
        return Transition(resolved, AlertState.RESOLVED, record_id, finding.time)

    def _start(self, key: str, finding: Finding, record_id: int) -> Transition:
        alert = Alert(
            fingerprint=key,
            finding=finding,
            starts_at=finding.time,
            last_value=finding.value,
            last_step=finding.step,
            ends_at=None,
            state=AlertState.FIRING,
        )
        self._firing[key] = alert
        return Transition(alert, AlertState.FIRING, record_id, finding.time)


def _raised(alert: Alert, finding: Finding) -> Alert:
    begun = alert.finding
    raised = replace(finding, onset_step=begun.onset_step, onset_time=begun.onset_time, episode=begun.episode)
    return replace(alert, finding=raised)
