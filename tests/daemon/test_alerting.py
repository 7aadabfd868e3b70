"""Decisions are stored with the messages, or kept until they can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rlhfd_alerts.alert import AlertState, Transition
from rlhfd_alerts.errors import OutboxError
from rlhfd_alerts.groups import Dispatcher
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.matchers import parse_matchers
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.silences import Silence
from rlhfd_alerts.testing import example_finding
from rlhfd_daemon.alerting import Alerting


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox.open(tmp_path / "alerts.sqlite3")
    yield opened
    opened.close()


def alerting(outbox: Outbox) -> Alerting:
    found = Alerting(outbox, Lifecycle(), Dispatcher(None, ("ops",)), decided=lambda: None)
    found.restore(0.0)
    return found


def fired(record_id: int, rule: str = "kl", active: bool = True) -> Transition:
    lifecycle = Lifecycle()
    finding = example_finding(rule=rule, metric=rule)
    begun = lifecycle.observe(finding, record_id)
    assert begun is not None
    if active:
        return begun
    ended = lifecycle.observe(replace(finding, active=False), record_id)
    assert ended is not None
    return ended


def states(outbox: Outbox) -> list[str]:
    rows = outbox._db.execute("SELECT body FROM outbox ORDER BY seq").fetchall()
    return ["firing" if b'"alert.firing"' in body else "resolved" for (body,) in rows]


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


def test_a_new_start_goes_on_where_the_rows_say(outbox: Outbox) -> None:
    one = alerting(outbox)
    one.take([fired(5)], 5, 100.0)
    again = alerting(outbox)
    again.tick(200.0, 5)
    assert states(outbox) == ["firing"]
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
