"""Which transitions share a notification, and under which id."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rlhfd_alerts.alert import AlertState, Episode, News, Transition
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.grouping import group
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.testing import example_finding


def fired(record_id: int = 1, **changes: Any) -> Transition:
    transition = Lifecycle().observe(example_finding(**changes), record_id)
    assert transition is not None
    return transition


def test_nothing_decided_is_nothing_to_tell() -> None:
    assert group([]) == ()


def test_metrics_of_one_rule_at_one_record_share_a_notification_of_the_worst_severity() -> None:
    first, second = fired(metric="a"), fired(metric="b", severity=Severity.CRITICAL)
    (notification,) = group([first, second])
    assert notification.transitions == (first, second)
    assert notification.severity is Severity.CRITICAL
    assert notification.lead == second


@pytest.mark.parametrize("change", [{"record_id": 2}, {"run": "x"}, {"boot": "x"}, {"rule": "x"}])
def test_another_record_run_boot_or_rule_is_another_notification(change: dict[str, Any]) -> None:
    first, second = group([fired(), fired(**change)])
    assert first.id != second.id


def test_firing_and_resolved_at_one_record_are_two_notifications_in_the_order_decided() -> None:
    lifecycle = Lifecycle()
    findings = [example_finding(metric="a"), example_finding(metric="a", active=False), example_finding(metric="b")]
    transitions = [t for finding in findings if (t := lifecycle.observe(finding, 1)) is not None]
    notifications = group(transitions)
    assert [n.state for n in notifications] == [AlertState.FIRING, AlertState.RESOLVED]
    assert [len(n.transitions) for n in notifications] == [2, 1]


def test_an_id_is_the_same_in_every_process_and_version() -> None:
    (notification,) = group([fired(run="r", boot="b", rule="k", metric="m", record_id=42)])
    assert notification.id == "msg_56f175250c97064ea7b269f245a0e185"
    assert notification.transitions[0].alert.fingerprint == "b932651f4b8034e2"


def placed(transition: Transition, *news: News, episode: str = "ep_1") -> Transition:
    """The transition as it is when its episode has this news."""
    alert = transition.alert
    found = Episode(
        id=episode, state=AlertState.FIRING, severity=Severity.WARNING, opening=1, opened_step=1, opened_time=1.0,
        ended_step=None, ended_time=None, members=(alert,), more=0, firing=1, confidence=0.5, news=news,
    )  # fmt: skip
    return replace(transition, episode=found)


def test_alerts_of_one_episode_share_a_notification_whatever_their_rules() -> None:
    (notification,) = group([placed(fired(rule="a"), News.OPENED), placed(fired(rule="b"), News.OPENED)])
    assert [t.alert.finding.rule for t in notification.transitions] == ["a", "b"]
    assert notification.episode is not None
    assert (notification.episode.id, notification.rule) == ("ep_1", "a")


def test_two_episodes_at_one_record_are_two_notifications() -> None:
    one, two = group([placed(fired(), News.OPENED), placed(fired(metric="x"), News.OPENED, episode="ep_2")])
    assert one.id != two.id


def test_who_joins_or_leaves_an_episode_is_told_with_its_next_message_only() -> None:
    resolved = replace(fired(), state=AlertState.RESOLVED)
    assert group([placed(fired()), placed(resolved)]) == ()
    assert group([placed(resolved, News.RAISED)]) == (), "what rose is another alert's"
    (raised,) = group([placed(fired(), News.RAISED)])
    (over,) = group([placed(resolved, News.RESOLVED)])
    assert (raised.state, over.state) == (AlertState.FIRING, AlertState.RESOLVED)


def test_an_episode_that_opened_and_ended_at_one_record_is_told_in_that_order() -> None:
    begun, ended = fired(), replace(fired(), state=AlertState.RESOLVED)
    both = (News.OPENED, News.RESOLVED)
    assert [one.state.value for one in group([placed(begun, *both), placed(ended, *both)])] == ["firing", "resolved"]
