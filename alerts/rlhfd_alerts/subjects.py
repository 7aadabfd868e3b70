"""What messages are about: one episode as it is now, with all its firing alerts and how often it has opened lately."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlhfd_alerts.alert import Alert, AlertState, Episode, Transition
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_alerts.flapping import Damping, recent_openings
from rlhfd_alerts.labels import labels_of

__all__ = [
    "Firing",
    "Subject",
    "as_firing",
    "lone_episode",
    "subject_from_json",
    "subject_id",
    "subject_to_json",
    "worst_of",
]

_SHOWN = 24
_ACTION = "action"  # the family of alerts that tell what was done about an episode
_KEPT = (
    "id", "opening", "opened_step", "opened_time", "ended_step", "ended_time", "more", "firing", "confidence",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Firing:
    """A firing alert and what it is called by."""

    alert: Alert
    labels: Mapping[str, str]

    @property
    def is_grave(self) -> bool:
        """Whether it is more than information."""
        return self.alert.finding.severity is not Severity.INFO


@dataclass
class Subject:
    """``held_until``: until when its end has to hold before it is believed (see :mod:`rlhfd_alerts.flapping`);
    ``acted``: how many alerts have told of actions."""

    episode: Episode
    record_id: int
    seen_at: float
    openings: list[float] = field(default_factory=list)
    held_until: float | None = None
    firing: dict[str, Firing] = field(default_factory=dict)
    host: str = ""
    acted: int = 0

    @property
    def id(self) -> str:
        return self.episode.id

    @property
    def is_open(self) -> bool:
        """Whether something is wrong that is more than information."""
        return self.episode.state is AlertState.FIRING and self.episode.severity is not Severity.INFO

    @property
    def is_alive(self) -> bool:
        """Whether it is open as far as people are told."""
        return self.is_open or self.held_until is not None

    @property
    def grave(self) -> Sequence[Firing]:
        """What speaks for telling it: the firing alerts above information; when it is over, those it had."""
        found = [one for one in self.firing.values() if one.is_grave]
        return found or [one for one in map(self._of, self.episode.members) if one.is_grave]

    @property
    def critical_rules(self) -> frozenset[str]:
        """The rules of what is critical."""
        found = (one.alert.finding for one in self.grave)
        return frozenset(one.rule for one in found if one.severity is Severity.CRITICAL)

    @property
    def is_critical(self) -> bool:
        """Whether it is critical in this opening."""
        return self.episode.severity is Severity.CRITICAL

    def begin(self) -> None:
        """Forget the snapshot it was made with: nothing of it has happened yet."""
        resolved, opening = AlertState.RESOLVED, self.episode.opening - 1
        self.episode = replace(self.episode, state=resolved, opening=opening)

    def labels_of(self, alert: Alert) -> Mapping[str, str]:
        """What an alert of it is called by."""
        return {**labels_of(alert, self.host), "episode": self.id}

    def put(self, alert: Alert) -> Firing:
        """Count a firing alert."""
        self.firing[alert.fingerprint] = firing = self._of(alert)
        return firing

    def _of(self, alert: Alert) -> Firing:
        return Firing(alert, self.labels_of(alert))

    def follow(self, episode: Episode, transitions: Sequence[Transition], now: float, damp: Damping) -> None:
        """Take over what one record decided; ``episode`` is as it stood afterwards."""
        was_open, opening = self.is_open, self.episode.opening
        self.episode, self.seen_at = episode, now
        for one in transitions:
            self.record_id = max(self.record_id, one.record_id)
            self.firing.pop(one.alert.fingerprint, None)
            if one.state is AlertState.FIRING:
                self.put(one.alert)
                self.acted += one.alert.finding.family == _ACTION
        is_new = not was_open and (self.is_open or episode.opening > opening)
        if is_new and episode.severity is not Severity.INFO:
            self.openings = [*recent_openings(self.openings, now, damp.window_seconds), now]
            self.held_until = None
        if (was_open or is_new) and not self.is_open:
            hold = damp.hold_seconds(self.openings, now)
            self.held_until = now + hold if hold else None


def subject_id(finding: Finding) -> str:
    """The episode; of an alert without one its run, launch and rule, as :mod:`rlhfd_alerts.message` has it."""
    if finding.episode:
        return finding.episode
    parts = "\0".join((finding.run, finding.boot, finding.rule))
    return "al_" + hashlib.sha256(parts.encode("utf-8", "replace")).hexdigest()[:16]


def lone_episode(id_: str, before: Subject | None, transitions: Sequence[Transition]) -> Episode:
    """The alerts of one rule for which there was no room in any episode, as an episode of their own."""
    firing = {} if before is None else {key: one.alert for key, one in before.firing.items()}
    for one in transitions:
        firing.pop(one.alert.fingerprint, None)
        if one.state is AlertState.FIRING:
            firing[one.alert.fingerprint] = one.alert
    changed = [one.alert for one in transitions]
    known = None if before is None or not before.is_open else before.episode
    opening = 0 if before is None else before.episode.opening
    worst = max((one.finding.severity for one in (*firing.values(), *changed)), key=lambda one: one.rank)
    last = changed[-1]
    return Episode(
        id=id_,
        state=AlertState.FIRING if firing else AlertState.RESOLVED,
        severity=worst if known is None else max(worst, known.severity, key=lambda one: one.rank),
        opening=opening + (known is None),
        opened_step=changed[0].finding.onset_step if known is None else known.opened_step,
        opened_time=changed[0].starts_at if known is None else known.opened_time,
        ended_step=None if firing else last.last_step,
        ended_time=None if firing else last.ends_at,
        members=tuple(firing.values())[:_SHOWN] or tuple(changed[:_SHOWN]),
        more=max(len(firing) - _SHOWN, 0),
        firing=len(firing),
        confidence=0.5,
    )


def subject_to_json(subject: Subject) -> str:
    """Return what is stored of ``subject``; its alerts are stored as such."""
    episode = subject.episode
    fields: dict[str, object] = {name: getattr(episode, name) for name in _KEPT}
    fields |= {"state": episode.state.value, "severity": episode.severity.value}
    fields["members"] = [member.fingerprint for member in episode.members]
    kept = {
        "episode": fields,
        "record_id": subject.record_id,
        "seen_at": subject.seen_at,
        "openings": subject.openings,
        "held_until": subject.held_until,
        "acted": subject.acted,
    }
    return json.dumps(kept, separators=(",", ":"))


def subject_from_json(text: str, alerts: Mapping[str, Alert]) -> Subject:
    """Return the subject that :func:`subject_to_json` wrote, without its firing alerts. Raises ``ValueError`` if it did
    not write this, or none of the episode's members is among ``alerts`` any more."""
    try:
        kept: dict[str, Any] = json.loads(text)
        fields = kept.pop("episode")
        members = tuple(alerts[one] for one in fields.pop("members") if one in alerts)
        if not members:
            raise ValueError("its alerts are not known any more")
        state, severity = AlertState(fields.pop("state")), Severity(fields.pop("severity"))
        return Subject(Episode(**fields, state=state, severity=severity, members=members), **kept)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a subject: {error}") from error


def as_firing(episode: Episode) -> Episode:
    """``episode`` as it was before it was over, for those who have not heard that it had begun."""
    if episode.state is AlertState.FIRING:
        return episode
    members = tuple(replace(one, state=AlertState.FIRING, ends_at=None) for one in episode.members)
    return replace(episode, state=AlertState.FIRING, members=members, ended_step=None, ended_time=None)


def worst_of(severities: Iterable[Severity]) -> Severity:
    """The gravest; information if there is none."""
    return max(severities, key=lambda one: one.rank, default=Severity.INFO)
