"""Decisions are stored with the messages, or kept until they can be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhfd_alerts.alert import AlertState, Transition
from rlhfd_alerts.errors import OutboxError
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.groups import Dispatcher
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.matchers import parse_matchers
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.outbox_admin import listed
from rlhfd_alerts.receivers.alertmanager import AlertmanagerSettings
from rlhfd_alerts.receivers.slack import SlackSettings
from rlhfd_alerts.silences import Silence
from rlhfd_alerts.target import TargetSettings
from rlhfd_alerts.testing import example_finding
from rlhfd_daemon.alerting import Alerting, dispatcher_for
from rlhfd_daemon.config import Config
from rlhfd_daemon.control_alerts import Desk, OutboxRequest
from rlhfd_daemon.runs import Runs


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox.open(tmp_path / "alerts.sqlite3")
    yield opened
    opened.close()


def alerting(outbox: Outbox) -> Alerting:
    found = Alerting(outbox, Lifecycle(), Dispatcher(None, ("ops",)), decided=lambda: None)
    found.restore(0.0)
    return found


def fired(record_id: int, rule: str = "kl", active: bool = True, severity: Severity = Severity.CRITICAL) -> Transition:
    lifecycle = Lifecycle()
    finding = example_finding(rule=rule, metric=rule, severity=severity)
    begun = lifecycle.observe(finding, record_id)
    assert begun is not None
    if active:
        return begun
    ended = lifecycle.observe(replace(finding, active=False), record_id)
    assert ended is not None
    return ended


def bodies(outbox: Outbox) -> list[dict[str, Any]]:
    return [json.loads(body) for (body,) in outbox._db.execute("SELECT body FROM outbox ORDER BY seq")]


def states(outbox: Outbox) -> list[str]:
    return [body["type"].removeprefix("alert.") for body in bodies(outbox)]


def test_what_a_full_disk_does_not_take_is_stored_once_there_is_room(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = alerting(outbox)

    def full(*_: object) -> None:
        raise OutboxError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "tell", full)
        one.take([fired(5)], 5, 100.0)
        one.take([fired(7, active=False)], 7, 110.0)
        with pytest.raises(OutboxError):
            one.advance(8, 111.0)
    assert (states(outbox), outbox.decided_through()) == ([], -1)
    one.advance(8, 120.0)
    assert (states(outbox), outbox.decided_through()) == (["firing", "resolved"], 8)
    assert outbox.alerts()[0].state is AlertState.RESOLVED


def test_while_the_disk_is_full_the_gravest_messages_are_kept_and_the_rest_counted(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhfd_daemon.alerting.MAX_OWED", 2)
    one = alerting(outbox)

    def full(*_: object) -> None:
        raise OutboxError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "tell", full)
        for record, severity in enumerate((Severity.CRITICAL, Severity.WARNING, Severity.CRITICAL, Severity.WARNING)):
            one.take([fired(record, f"rule{record}", severity=severity)], record, 100.0 + record)
    one.advance(4, 120.0)
    assert one.dropped == 2
    assert [body["data"]["rule"] for body in bodies(outbox)] == ["rule0", "rule2"]


def test_a_retry_by_id_tries_the_target_of_that_message_again_and_no_other(outbox: Outbox) -> None:
    one = Alerting(outbox, Lifecycle(), Dispatcher(None, ("ops", "pager")), decided=lambda: None)
    one.restore(0.0)
    one.take([fired(5)], 5, 100.0)
    for due in (*outbox.due("ops", 100.0, 9), *outbox.due("pager", 100.0, 9)):
        outbox.mark_dead([due], "HTTP 404")
    retried: list[set[str]] = []
    desk = Desk(lambda: one, retried.append)
    (identity,) = {str(message["id"]) for message in listed(outbox, "dead", "ops")}
    assert desk.retry(OutboxRequest(id=identity, target="ops")) == {"messages": 1}
    assert retried == [{"ops"}]
    assert outbox.counts() == {("ops", "pending"): 1, ("pager", "dead"): 1}
    assert desk.retry(OutboxRequest()) == {"messages": 2}
    assert retried[1] == {"ops", "pager"}
    assert desk.retry(OutboxRequest(target="elsewhere")) == {"messages": 0}
    assert retried[2] == {"elsewhere"}, "it may be disabled and owe nothing"


def test_a_new_start_goes_on_where_the_rows_say(outbox: Outbox) -> None:
    one = alerting(outbox)
    one.take([fired(5)], 5, 100.0)
    again = alerting(outbox)
    again.tick(200.0, 5)
    assert states(outbox) == ["firing"]
    outbox.mark_delivered(outbox.due("ops", 200.0, 1), 200.0)
    again.tick(100.0 + 4 * 3600, 5)
    assert states(outbox) == ["firing", "firing"]
    again.take([fired(6, active=False)], 6, 20_000.0)
    assert states(outbox) == ["firing", "firing", "resolved"]


def test_promise_D11_a_silence_is_on_disk_when_it_was_taken(outbox: Outbox) -> None:
    one = alerting(outbox)
    one.dispatcher.silence(Silence("sil_1", parse_matchers(["rule=kl"]), "ada", "", 0.0, 1000.0), 10.0)
    one.settle(10.0)
    again = alerting(outbox)
    again.take([fired(5)], 5, 100.0)
    assert states(outbox) == []
    again.tick(1000.0, 5)
    assert states(outbox) == ["firing"]


def test_other_routes_take_up_what_was_told(outbox: Outbox) -> None:
    one = alerting(outbox)
    one.take([fired(5)], 5, 100.0)
    one.replace(Dispatcher(None, ("ops", "new")), 200.0)
    one.tick(201.0, 5)
    told = outbox._db.execute("SELECT target FROM outbox ORDER BY seq").fetchall()
    assert told == [("ops",), ("new",)]


def test_an_alertmanager_is_told_what_is_over_whatever_its_target_says() -> None:
    """It would be repeated for ever otherwise."""
    targets: dict[str, TargetSettings] = {
        "am": AlertmanagerSettings(url="http://x", send_resolved=False),
        "chat": SlackSettings(send_resolved=False),
    }
    dispatcher = dispatcher_for(Config(targets=targets), Runs())
    for active in (True, False):
        told = dispatcher.observe([fired(5, active=active)], 100.0)
    assert [(one.target, one.owed) for one in told] == [("am", None), ("chat", True)]
