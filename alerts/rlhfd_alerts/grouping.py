"""Which transitions share one notification, and which need none."""

from __future__ import annotations

from collections.abc import Iterable

from rlhfd_alerts.alert import AlertState, Notification, Transition, notification_id

__all__ = ["group"]

_Key = tuple[int, str, str, str, AlertState]


def group(transitions: Iterable[Transition]) -> tuple[Notification, ...]:
    """Return one notification per (record, run, boot, episode, state) where that is news of the episode; alerts that
    merely join or leave an episode are told with its next message.

    Of alerts without an episode it is one per (record, run, boot, rule, state). Notifications are in order of their
    first transition; transitions keep the order they were decided in.
    """
    groups: dict[_Key, list[Transition]] = {}
    for transition in transitions:
        finding, episode = transition.alert.finding, transition.episode
        if episode is None:
            subject = finding.rule
        elif any(news.state is transition.state for news in episode.news):
            subject = episode.id
        else:
            continue
        key = (transition.record_id, finding.run, finding.boot, subject, transition.state)
        groups.setdefault(key, []).append(transition)
    return tuple(_notification(key, tuple(members)) for key, members in groups.items())


def _notification(key: _Key, transitions: tuple[Transition, ...]) -> Notification:
    record_id, run, boot, subject, state = key
    episode = transitions[0].episode
    worst = max((t.alert.finding.severity for t in transitions), key=lambda severity: severity.rank)
    return Notification(
        id=notification_id(run, boot, subject, state, record_id),
        run=run,
        boot=boot,
        severity=worst if episode is None else episode.severity,
        state=state,
        transitions=transitions,
        episode=episode,
    )
