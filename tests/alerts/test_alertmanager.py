"""Alerts in a real Alertmanager: they stay as long as they fire, and are over when they are over."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alertmanagers import Alertmanager
from goldens import CASES, CONTEXT, content
from rlhfd_alerts.clock import SystemClock
from rlhfd_alerts.context import Context
from rlhfd_alerts.receivers import Resending
from rlhfd_alerts.receivers.alertmanager import AlertmanagerReceiver, AlertmanagerSettings
from rlhfd_alerts.sample import sample
from rlhfd_alerts.target import Target
from rlhfd_alerts.testing import WebhookServer
from support import wait_for


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Alertmanager]:
    running = Alertmanager(tmp_path)
    yield running
    running.stop()


def receiver(url: str, **settings: Any) -> tuple[AlertmanagerReceiver, Context]:
    context = replace(CONTEXT, sessions=type(CONTEXT.sessions)())
    return AlertmanagerReceiver(Target("am", AlertmanagerSettings(url=url, **settings)), context), context


def test_alerts_appear_with_labels_stay_by_repetition_and_end(manager: Alertmanager) -> None:
    async def scenario() -> None:
        one, context = receiver(manager.url, resend_seconds=1.0)
        assert isinstance(one, Resending)
        now = time.time()
        await one.send(*sample("node-7", False, now), now)
        shown = manager.alerts() or []
        assert sorted(alert["labels"]["alertname"] for alert in shown) == ["kl_runaway", "level_change"]
        first = next(alert for alert in shown if alert["labels"]["alertname"] == "kl_runaway")
        assert first["labels"]["severity"] == "critical"
        assert (first["labels"]["run"], first["labels"]["host"]) == ("rlhfd-test", "node-7")
        assert first["annotations"]["summary"].startswith("TEST: train/kl is 0.75")
        assert first["generatorURL"] == "https://grafana.example/d/x?var-run=rlhfd-test"
        ends_at = first["endsAt"]
        clock, never = SystemClock(), asyncio.Event()
        for _ in range(6):  # longer than it would hold them by itself
            await clock.wait(never, 1.0)
            await one.resend(time.time())
        shown = manager.alerts() or []
        assert len(shown) == 2
        assert shown[0]["endsAt"] > ends_at
        await one.send(*sample("node-7", True, time.time()), time.time())
        assert wait_for(lambda: manager.alerts() == [])
        await context.sessions.close()

    asyncio.run(scenario())


def test_without_repetition_it_lets_them_go(manager: Alertmanager) -> None:
    """What the repetition is for: the check above would fail without it."""

    async def scenario() -> None:
        one, context = receiver(manager.url, resend_seconds=1.0)
        await one.send(*sample("node-7", False, time.time()), time.time())
        assert len(manager.alerts() or []) == 2
        await context.sessions.close()

    asyncio.run(scenario())
    assert wait_for(lambda: manager.alerts() == [])


def test_promise_E10_any_text_is_a_label_that_it_takes(manager: Alertmanager) -> None:
    async def scenario() -> None:
        one, context = receiver(manager.url)
        every = [make() for make in CASES.values()]
        await one.send_digest([(notification.id, content(notification)) for notification in every], time.time())
        await context.sessions.close()

    asyncio.run(scenario())


def test_what_was_delivered_before_a_restart_is_repeated_after_it() -> None:
    async def scenario() -> None:
        async with WebhookServer() as server:
            one, context = receiver(f"http://127.0.0.1:{server.port}/")
            begun, over = sample("a", False, 1.7e9), sample("b", True, 1.7e9)
            one.recall([begun, over], 1.7e9)
            await one.resend(1.7e9 + 60)
            (request,) = server.requests
            assert request.path == "/api/v2/alerts"
            posted = json.loads(request.body)
            assert {alert["labels"]["host"]: alert["endsAt"] for alert in posted} == {
                "a": "2023-11-14T22:18:20.000Z",
                "b": "2023-11-14T22:13:20.000Z",
            }
            await one.resend(1.7e9 + 3600)  # what has been over for long is not repeated
            assert {alert["labels"]["host"] for alert in json.loads(server.requests[1].body)} == {"a"}
            await context.sessions.close()

    asyncio.run(scenario())


def test_an_alert_whose_severity_rose_is_over_under_its_old_labels() -> None:
    async def scenario() -> None:
        async with WebhookServer() as server:
            one, context = receiver(f"http://127.0.0.1:{server.port}/")
            identity, body = sample("a", False, 1.7e9)
            await one.send(identity, body, 1.7e9)
            raised = body.replace(b'"severity":"warning"', b'"severity":"critical"')
            await one.send("msg_2", raised, 1.7e9 + 60)
            posted = json.loads(server.requests[1].body)
            ends = {
                (alert["labels"]["metric"], alert["labels"]["severity"]): alert["endsAt"] > "2023-11-14T22:15"
                for alert in posted
            }
            assert ends == {
                ("train/kl", "critical"): True,
                ("train/reward", "critical"): True,
                ("train/reward", "warning"): False,
            }
            await context.sessions.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("username", "expected"), [("", "Bearer canary-4711"), ("rlhfd", "Basic cmxoZmQ6Y2FuYXJ5LTQ3MTE=")]
)
def test_a_secret_is_a_token_or_a_password(username: str, expected: str) -> None:
    async def scenario() -> None:
        async with WebhookServer() as server:
            settings = AlertmanagerSettings(url=f"http://127.0.0.1:{server.port}", username=username)
            context = replace(CONTEXT, sessions=type(CONTEXT.sessions)())
            one = AlertmanagerReceiver(Target("am", settings, secrets=("canary-4711",)), context)
            await one.send(*sample("a", False, 1.7e9), 1.7e9)
            assert server.requests[0].headers["authorization"] == expected
            await context.sessions.close()

    asyncio.run(scenario())
