"""What becomes of findings: alerts, their transitions, and the notifications that tell of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum

from rlhfd_alerts.canonical import canonical_json
from rlhfd_alerts.finding import Finding, Severity

__all__ = [
    "Alert",
    "AlertState",
    "Episode",
    "News",
    "Notification",
    "Place",
    "Transition",
    "episode_id",
    "fingerprint",
    "notification_id",
]


class AlertState(str, Enum):
    """Where an alert stands; an alert that does not exist is inactive."""

    FIRING = "firing"
    RESOLVED = "resolved"


class News(str, Enum):
    """What one record's decisions change about an episode that people are told of."""

    OPENED = "opened"  # also when it opened again, or became worth telling
    RAISED = "raised"  # its severity rose
    RESOLVED = "resolved"

    @property
    def state(self) -> AlertState:
        """The state that the message is about."""
        return AlertState.RESOLVED if self is News.RESOLVED else AlertState.FIRING


@dataclass(frozen=True, slots=True)
class Place:
    """Where an alert stands in its episode; stored with the alert, so that a restart knows the episode again."""

    opened_step: int | None  # the episode's
    opened_time: float
    opening: int  # 1 when the episode opened first, one more each time it opened again
    severity: Severity  # the worst of the episode in this opening, up to when this alert began
    onset_step: int | None  # when the alert's condition began first within the episode
    onset_time: float


@dataclass(frozen=True, slots=True)
class Alert:
    """One condition's life from firing to resolved. Times are unix seconds."""

    fingerprint: str
    finding: Finding  # the one that started it, or raised its severity
    starts_at: float
    last_value: float | None
    last_step: int | None
    ends_at: float | None
    state: AlertState
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """The alerts of one cause as they stood after one record. ``more`` firing alerts are not among ``members``."""

    id: str
    state: AlertState
    severity: Severity  # the worst of this opening
    opening: int
    opened_step: int | None
    opened_time: float
    ended_step: int | None
    ended_time: float | None
    members: tuple[Alert, ...]  # at least one, first cause first
    more: int
    firing: int
    confidence: float  # that something is wrong: 0 to 1
    news: tuple[News, ...] = ()

    @property
    def cause(self) -> Alert:
        """The probable first cause: the first member that is more than information."""
        grave = (member for member in self.members if member.finding.severity is not Severity.INFO)
        return next(grave, self.members[0])


@dataclass(frozen=True, slots=True)
class Transition:
    """An alert entered ``state``, or fires on with a higher severity; ``record_id`` is the frame-log record at which
    that was decided. ``episode`` is as it stood after all that was decided there."""

    alert: Alert
    state: AlertState
    record_id: int
    time: float
    episode: Episode | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """One message: the transitions (at least one, as decided) of one episode, or of several that share messages, or of
    one rule where alerts have no episode. ``repeat``: how often it was told before that this still fires."""

    id: str
    run: str
    boot: str
    severity: Severity
    state: AlertState
    transitions: tuple[Transition, ...]
    episode: Episode | None = None
    repeat: int = 0

    @property
    def lead(self) -> Transition:
        """The transition that the message is about: the first of the most severe."""
        return max(self.transitions, key=lambda transition: transition.alert.finding.severity.rank)

    @property
    def head(self) -> Alert:
        """The alert that the message is headed by: the episode's first cause where that is new or everything is over,
        else what has happened."""
        if self.episode is not None:
            cause = self.episode.cause
            fresh = any(transition.alert.fingerprint == cause.fingerprint for transition in self.transitions)
            if fresh or self.state is AlertState.RESOLVED:
                return cause
        return self.lead.alert

    @property
    def rule(self) -> str:
        """The rule of :attr:`head`."""
        return self.head.finding.rule


def fingerprint(finding: Finding) -> str:
    """Return the identity of an alert, by run, boot, rule, metric and labels: 16 hex digits, everywhere the same."""
    labels = [list(pair) for pair in sorted(finding.labels)]
    return _digest([finding.run, finding.boot, finding.rule, finding.metric, labels])[:16]


def episode_id(first: Finding, record_id: int) -> str:
    """Return the identity of the episode that ``first`` opens at a record; the same when it is decided again."""
    return "ep_" + _digest([first.run, first.boot, first.rule, first.metric, first.onset_step, record_id])[:16]


def notification_id(run: str, boot: str, subject: str, state: AlertState, record_id: int) -> str:
    """Return the ``webhook-id``: the same decision has the same id after a crash, a retry or a replay. ``subject`` is
    the episode, or the rule of alerts without one."""
    return "msg_" + _digest([run, boot, subject, state.value, record_id])[:32]


def _digest(parts: list[object]) -> str:
    return hashlib.sha256(canonical_json(parts)).hexdigest()
