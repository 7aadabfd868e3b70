"""How what a group has to say becomes a notification."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from rlhfd_alerts.alert import Alert, AlertState, Episode, Notification, Transition, notification_id
from rlhfd_alerts.canonical import canonical_json
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.subjects import worst_of

__all__ = ["Outgoing", "group_id", "later_id", "merged", "tell"]

_SHOWN = 24


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for one target. ``owed``: only if an earlier one about the same is (or is not) still to be
    delivered."""

    target: str
    notification: Notification
    owed: bool | None = None


def group_id(route: str, target: str, labels: Sequence[tuple[str, str]]) -> str:
    """The identity of a group: route, target and the values of the labels it is grouped by."""
    return "gr_" + _digest([route, target, [list(pair) for pair in labels]])[:16]


def later_id(run: str, boot: str, subject: str, state: AlertState, record_id: int, number: int) -> str:
    """The id of a message that is not sent at the record that decided it: the ``number``-th of its group."""
    return "msg_" + _digest([run, boot, subject, state.value, record_id, number])[:32]


def tell(
    episode: Episode, state: AlertState, now: float, record_id: int, number: int, transitions: Sequence[Transition] = ()
) -> Notification:
    """The message that ``episode`` is in ``state``. ``transitions`` are those of the record that is the cause of it;
    without any, it is told of later and by its members."""
    cause = episode.cause.finding
    made = tuple(transitions) or _made(episode, state, now, record_id)
    if transitions:
        id_ = notification_id(cause.run, cause.boot, episode.id, state, record_id)
    else:
        id_ = later_id(cause.run, cause.boot, episode.id, state, record_id, number)
    return Notification(
        id=id_,
        run=cause.run,
        boot=cause.boot,
        severity=episode.severity,
        state=state,
        transitions=made,
        episode=episode,
    )


def merged(id_: str, episodes: Sequence[Episode]) -> Episode:
    """Several episodes that share messages, as one: those that are open first, which lead, then what is over."""
    alive = [one for one in episodes if one.state is AlertState.FIRING]
    leading = alive or episodes
    members = [member for one in leading for member in one.members]
    over = [member for one in episodes if alive and one not in alive for member in one.members]
    ended = [one for one in episodes if one.ended_time is not None]
    last = max(ended, key=lambda one: one.ended_time or 0.0, default=None)
    first = min(leading, key=lambda one: (one.opened_time, one.id))
    return Episode(
        id=id_,
        state=AlertState.FIRING if alive else AlertState.RESOLVED,
        severity=worst_of(one.severity for one in leading),
        opening=max(one.opening for one in leading),
        opened_step=first.opened_step,
        opened_time=first.opened_time,
        ended_step=None if alive or last is None else last.ended_step,
        ended_time=None if alive or last is None else last.ended_time,
        members=(*members[:_SHOWN], *over)[:_SHOWN],
        more=sum(one.more for one in leading) + max(len(members) - _SHOWN, 0),
        firing=sum(one.firing for one in leading),
        confidence=max(one.confidence for one in leading),
    )


def _made(episode: Episode, state: AlertState, now: float, record_id: int) -> tuple[Transition, ...]:
    members: list[Alert] = [one for one in episode.members if one.state is state] or list(episode.members)
    worst = worst_of(one.finding.severity for one in members)
    if worst is not Severity.INFO:
        members = [one for one in members if one.finding.severity is not Severity.INFO]
    return tuple(Transition(one, state, record_id, now, episode) for one in members)


def _digest(parts: list[object]) -> str:
    return hashlib.sha256(canonical_json(parts)).hexdigest()
