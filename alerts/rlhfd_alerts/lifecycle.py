"""When an alert starts and ends: inactive, pending, firing, resolved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from rlhfd_alerts.alert import Alert, AlertState, Transition, fingerprint
from rlhfd_alerts.codec import alert_from_json, alert_to_json
from rlhfd_alerts.finding import Finding
from rlhfd_alerts.labels import labels_of
from rlhfd_alerts.matchers import Matcher, matches

__all__ = ["AlertRule", "Lifecycle"]

_SEPARATOR = "\x1f"
MAX_PENDING = 20_000
_log = structlog.get_logger("rlhfd.alerts")


@dataclass(frozen=True, slots=True)
class AlertRule:
    """An alert that meets ``matchers`` fires once its condition has held ``for_seconds``, and ends once that has not
    come back for ``keep_firing_seconds``."""

    matchers: tuple[Matcher, ...]
    for_seconds: float = 0.0
    keep_firing_seconds: float = 0.0


class Lifecycle:
    """The alerts that are firing, and those about to. Pure: time and record ids come with the findings and ticks.

    Resolved alerts are forgotten, so what is held is bounded by what is wrong at the moment. Of ``rules`` the first
    that an alert meets counts.
    """

    def __init__(self, rules: Sequence[AlertRule] = ()) -> None:
        self._rules = tuple(rules)
        self._firing: dict[str, Alert] = {}
        self._pending: dict[str, tuple[Alert, float]] = {}  # and when it fires
        self._leaving: dict[str, tuple[Alert, float]] = {}  # as it will have ended, and when
        self._changed: dict[str, None] = {}

    @property
    def firing(self) -> tuple[Alert, ...]:
        """The firing alerts, oldest first."""
        return tuple(self._firing.values())

    @property
    def pending(self) -> tuple[tuple[Alert, float], ...]:
        """What will fire if it lasts, and when."""
        return tuple(self._pending.values())

    def restore(self, alerts: Iterable[Alert], rows: Mapping[str, str] | None = None) -> None:
        """Take up after a restart: replace what is held by those of ``alerts`` that are firing, and the stored rows."""
        self._firing = {alert.fingerprint: alert for alert in alerts if alert.state is AlertState.FIRING}
        held: dict[str, dict[str, tuple[Alert, float]]] = {"pending": {}, "leaving": {}}
        for key, text in (rows or {}).items():
            kind, _, name = key.partition(_SEPARATOR)
            if kind not in held:
                continue
            try:
                at, alert = json.loads(text)
                held[kind][name] = (alert_from_json(alert), float(at))
            except (ValueError, TypeError) as error:
                _log.error("stored alert is unreadable: ignored", fingerprint=name, cause=str(error))
        self._pending = held["pending"]
        self._leaving = {name: one for name, one in held["leaving"].items() if name in self._firing}

    def take_changes(self) -> dict[str, str | None]:
        """The rows of what is pending or kept firing that have changed since the last call."""
        rows: dict[str, str | None] = {}
        for key in self._changed:
            for kind, held in (("pending", self._pending), ("leaving", self._leaving)):
                known = held.get(key)
                text = None if known is None else json.dumps([known[1], alert_to_json(known[0])])
                rows[f"{kind}{_SEPARATOR}{key}"] = text
        self._changed = {}
        return rows

    def observe(self, finding: Finding, record_id: int) -> Transition | None:
        """Return the transition that ``finding`` causes, ``None`` if it only confirms what is known, or has to last.

        A higher severity than the alert has is a transition, too: it fires again, with the onset it had.
        """
        key = fingerprint(finding)
        alert = self._firing.get(key)
        if alert is None and finding.active:
            return self._start(key, finding, record_id)
        if alert is None:
            self._drop(self._pending, key)
            return None
        latest = replace(alert, last_value=finding.value, last_step=finding.step)
        if finding.active:
            self._drop(self._leaving, key)
            is_worse = finding.severity.rank > alert.finding.severity.rank
            self._firing[key] = _raised(latest, finding) if is_worse else latest
            return Transition(self._firing[key], AlertState.FIRING, record_id, finding.time) if is_worse else None
        keep = self._rule(alert).keep_firing_seconds
        if keep > 0:
            if key not in self._leaving:
                self._leaving[key] = (latest, finding.time + keep)
                self._changed[key] = None
            return None
        return self._end(key, latest, record_id, finding.time)

    def tick(self, now: float, record_id: int) -> list[Transition]:
        """What has lasted long enough by ``now``, each as of the time when it had."""
        if not self._pending and not self._leaving:
            return []
        begun = [(at, key, alert) for key, (alert, at) in self._pending.items() if at <= now]
        ended = [(at, key, alert) for key, (alert, at) in self._leaving.items() if at <= now]
        decided = [self._fire(key, replace(alert, starts_at=at), record_id, at) for at, key, alert in begun]
        decided += [self._end(key, alert, record_id, at) for at, key, alert in ended]
        return sorted(decided, key=lambda one: (one.time, one.alert.fingerprint))

    def _start(self, key: str, finding: Finding, record_id: int) -> Transition | None:
        alert = Alert(
            fingerprint=key,
            finding=finding,
            starts_at=finding.time,
            last_value=finding.value,
            last_step=finding.step,
            ends_at=None,
            state=AlertState.FIRING,
        )
        hold = self._rule(alert).for_seconds
        if hold <= 0 or (len(self._pending) >= MAX_PENDING and key not in self._pending):
            return self._fire(key, alert, record_id, finding.time)
        before = self._pending.get(key)
        if before is None or finding.severity.rank > before[0].finding.severity.rank:
            since = finding.time + hold if before is None else before[1]
            self._pending[key] = (alert if before is None else _raised(before[0], finding), since)
            self._changed[key] = None
        return None

    def _fire(self, key: str, alert: Alert, record_id: int, time: float) -> Transition:
        self._drop(self._pending, key)
        self._firing[key] = alert
        return Transition(alert, AlertState.FIRING, record_id, time)

    def _end(self, key: str, alert: Alert, record_id: int, time: float) -> Transition:
        self._drop(self._leaving, key)
        del self._firing[key]
        resolved = replace(alert, state=AlertState.RESOLVED, ends_at=time)
        return Transition(resolved, AlertState.RESOLVED, record_id, time)

    def _drop(self, held: dict[str, tuple[Alert, float]], key: str) -> None:
        if held.pop(key, None) is not None:
            self._changed[key] = None

    def _rule(self, alert: Alert) -> AlertRule:
        if not self._rules:
            return _AT_ONCE
        labels = labels_of(alert)
        return next((rule for rule in self._rules if matches(rule.matchers, labels)), _AT_ONCE)


_AT_ONCE = AlertRule(())


def _raised(alert: Alert, finding: Finding) -> Alert:
    begun = alert.finding
    raised = replace(finding, onset_step=begun.onset_step, onset_time=begun.onset_time, episode=begun.episode)
    return replace(alert, finding=raised)
