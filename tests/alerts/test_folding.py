"""Bursts, intervals, and targets that want nothing more."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhfd_alerts.channel import Sessions
from rlhfd_alerts.context import Context
from rlhfd_alerts.delivery import DeliveryWorker
from rlhfd_alerts.errors import DeliveryError
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.grouping import group
from rlhfd_alerts.health import DEGRADED_SECONDS, Health
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.receivers import Receiver, make_receiver
from rlhfd_alerts.receivers.slack import SlackSettings
from rlhfd_alerts.resending import resend_forever
from rlhfd_alerts.target import Target
from rlhfd_alerts.testing import ManualClock, MemoryReceiver, Reply, WebhookServer, example_finding
from rlhfd_alerts.wanted import is_about_delivery, is_wanted


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox.open(tmp_path / "outbox.db")
    yield opened
    opened.close()


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


def put(outbox: Outbox, *rules: str, now: float, **changes: Any) -> None:
    decided = [Lifecycle().observe(example_finding(rule=rule, **changes), 1) for rule in rules]
    transitions = [one for one in decided if one is not None]
    outbox.commit(transitions, group(transitions), ["hook"], 1, now)


class Folds(MemoryReceiver):
    """Takes digests, but none with a poisonous notification in it."""

    def __init__(self, *failures: DeliveryError) -> None:
        super().__init__(*failures)
        self.digests: list[int] = []

    async def send(self, notification_id: str, body: bytes, now: float) -> None:
        if b'"rule":"poison"' in body:
            raise DeliveryError("HTTP 400", permanent=True)
        await super().send(notification_id, body, now)

    async def send_digest(self, notifications: Sequence[tuple[str, bytes]], now: float) -> None:
        if any(b'"rule":"poison"' in body for _, body in notifications):
            raise DeliveryError("HTTP 400", permanent=True)
        await super().send("digest", b"", now)
        self.digests.append(len(notifications))


async def working(
    outbox: Outbox, receiver: Receiver, until: Callable[[DeliveryWorker], bool], clock: ManualClock, **options: Any
) -> DeliveryWorker:
    """A worker that has run, with the clock moved on as it waits, until something is true."""
    worker = DeliveryWorker("hook", receiver, outbox, clock, random=lambda: 1.0, **options)
    task, passed = asyncio.create_task(worker.run()), 0
    for turn in itertools.count():
        if until(worker):
            break
        assert turn < 100_000
        await asyncio.sleep(0)
        for seconds in clock.waits[passed:]:
            passed += 1
            clock.advance(seconds or 0.0)
    await worker.stop(1.0)
    await task
    return worker


def test_promise_D6_a_burst_is_folded_into_one_digest_that_names_critical_ones_first(outbox: Outbox) -> None:
    async def scenario() -> None:
        clock, sessions = ManualClock(), Sessions()
        put(outbox, *(f"rule{number}" for number in range(499)), now=clock.now())
        put(outbox, "meltdown", now=clock.now(), severity=Severity.CRITICAL, run="the-critical-run")
        async with WebhookServer(Reply(body=b"ok")) as server:
            settings = SlackSettings(url=server.url, allow_private=True)
            slack = make_receiver(Target("hook", settings), Context(sessions=sessions))
            worker = DeliveryWorker("hook", slack, outbox, clock, interval_seconds=settings.interval_seconds)
            task = asyncio.create_task(worker.run())
            await server.wait_for(1)
            await worker.stop(5.0)
            await task
            (request,) = server.requests
        await sessions.close()
        payload = json.loads(request.body)
        assert payload["blocks"][0]["text"]["text"] == "🔴 500 messages: 1 critical, 499 warning"
        assert payload["blocks"][1]["text"]["text"].startswith("🔴 `the-critical-run`")
        assert "… and 4" in payload["blocks"][-1]["text"]["text"]
        assert (outbox.counts(), worker.counters.delivered) == ({("hook", "delivered"): 500}, 500)

    run(scenario())


def test_promise_D6_no_two_attempts_come_closer_than_the_interval(outbox: Outbox) -> None:
    async def scenario() -> None:
        clock, receiver = ManualClock(), MemoryReceiver(DeliveryError("HTTP 500", permanent=False))
        put(outbox, "a", "b", "c", now=clock.now())
        await working(outbox, receiver, lambda w: w.counters.delivered == 3, clock, interval_seconds=1.0)
        times = [at for _, at in receiver.attempts]
        assert len(times) == 4
        assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(times))

    run(scenario())


def test_promise_D8_a_poisonous_notification_in_a_digest_is_the_only_one_given_up(outbox: Outbox) -> None:
    async def scenario() -> None:
        clock, receiver, given_up = ManualClock(), Folds(), []
        put(outbox, *(f"rule{number}" for number in range(50)), "poison", now=clock.now())
        put(outbox, *(f"other{number}" for number in range(49)), now=clock.now())
        worker = await working(
            outbox, receiver, lambda w: w.counters.delivered == 99, clock,
            given_up=lambda body, error: given_up.append((json.loads(body)["data"]["rule"], error)),
        )  # fmt: skip
        assert outbox.counts() == {("hook", "delivered"): 99, ("hook", "dead"): 1}
        assert given_up == [("poison", "HTTP 400")]
        assert worker.counters.dead == 1

    run(scenario())


def test_a_digest_that_fails_is_tried_again_as_a_whole(outbox: Outbox) -> None:
    async def scenario() -> None:
        clock, receiver = ManualClock(), Folds(DeliveryError("HTTP 503", permanent=False))
        put(outbox, *(f"rule{number}" for number in range(10)), now=clock.now())
        await working(outbox, receiver, lambda w: w.counters.delivered == 10, clock)
        assert receiver.digests == [10]
        put(outbox, "late1", "late2", "late3", now=clock.now())
        await working(outbox, receiver, lambda w: w.counters.delivered == 3, clock)
        assert receiver.digests == [10]  # a few are told one by one

    run(scenario())


def test_promise_D7_a_target_that_is_gone_is_left_alone_and_owed_everything(outbox: Outbox) -> None:
    async def scenario() -> None:
        clock, receiver = ManualClock(), MemoryReceiver(DeliveryError("HTTP 410", permanent=True, gone=True))
        put(outbox, "a", "b", now=clock.now())
        worker = DeliveryWorker("hook", receiver, outbox, clock)
        task = asyncio.create_task(worker.run())
        while len(clock.waits) < 1:
            await asyncio.sleep(0)
        assert worker.counters.disabled_at == clock.now()
        assert worker.counters.degraded_seconds(clock.now()) == 0.0
        put(outbox, "c", now=clock.now())
        worker.notify()
        while len(clock.waits) < 2:
            await asyncio.sleep(0)
        assert (len(receiver.attempts), clock.waits) == (1, [None, None])
        assert outbox.counts() == {("hook", "pending"): 3}
        worker.enable()
        while worker.counters.delivered < 3:
            await asyncio.sleep(0)
        assert worker.counters.disabled_at is None
        await worker.stop(1.0)
        await task

    run(scenario())


def test_what_a_target_does_not_want_is_settled_without_being_sent(outbox: Outbox) -> None:
    async def scenario() -> None:
        clock, receiver = ManualClock(), MemoryReceiver()
        put(outbox, "a", "b", now=clock.now())
        worker = await working(
            outbox, receiver, lambda w: w.counters.skipped + w.counters.delivered == 2, clock,
            wanted=lambda body: b'"rule":"a"' not in body,
        )  # fmt: skip
        assert (worker.counters.skipped, worker.counters.delivered, len(receiver.attempts)) == (1, 1, 1)
        assert outbox.counts() == {("hook", "delivered"): 2}

    run(scenario())


def own(target: str, kind: str = "alert.firing", *others: str) -> bytes:
    alerts = [{"rule": "notifier_degraded", "labels": {"target": target}}]
    alerts += [{"rule": rule, "labels": {}} for rule in others]
    return json.dumps({"type": kind, "data": {"alerts": alerts}}).encode()


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (own("slack"), False),
        (own("pager"), True),
        (own("slack", "alert.firing", "kl_runaway"), True),  # it is about something else as well
        (own("pager", "alert.resolved"), True),
        (b"not json", True),
        (b"[1]", True),
        (b'{"data": {"alerts": [3]}}', True),
    ],
)
def test_a_target_is_not_told_of_itself(body: bytes, wanted: bool) -> None:
    assert is_wanted(body, "slack") is wanted


def test_alerts_about_delivery_are_known() -> None:
    assert is_about_delivery(own("pager"))
    assert not is_about_delivery(own("pager", "alert.firing", "kl_runaway"))
    assert not is_about_delivery(b"{}")


def test_promise_D15_a_target_is_degraded_after_failing_for_five_minutes_and_at_once_when_gone() -> None:
    health = Health().failure("HTTP 503", 1000.0)
    assert health.degraded_seconds(1000.0 + DEGRADED_SECONDS - 1) is None
    assert health.failure("HTTP 503", 1200.0).degraded_seconds(1000.0 + DEGRADED_SECONDS) == DEGRADED_SECONDS
    assert health.accepted(1).degraded_seconds(9e9) is None
    assert health.refusal("HTTP 400", 1).degraded_seconds(9e9) is None
    assert health.disabled("HTTP 410", 1000.0).degraded_seconds(1001.0) == 1.0
    assert health.disabled("HTTP 410", 1000.0).enabled().degraded_seconds(1001.0) is None


def test_a_repetition_that_fails_counts_for_the_target(outbox: Outbox) -> None:
    class Repeats(MemoryReceiver):
        resend_seconds = 60.0
        repeated = 0

        def recall(self, notifications: object, now: float) -> None:
            return None

        async def resend(self, now: float) -> None:
            self.repeated += 1
            if self.repeated == 1:
                raise DeliveryError("HTTP 503", permanent=False)

    async def scenario() -> None:
        clock, receiver = ManualClock(), Repeats()
        worker = DeliveryWorker("am", receiver, outbox, clock)
        task = asyncio.create_task(resend_forever("am", receiver, worker, clock))
        errors = []
        for count in (1, 2):
            while len(clock.waits) < count:
                await asyncio.sleep(0)
            clock.advance(60.0)
            while receiver.repeated < count or len(clock.waits) < count + 1:
                await asyncio.sleep(0)
            errors.append(worker.counters.last_error)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert errors == ["HTTP 503", None]

    run(scenario())
