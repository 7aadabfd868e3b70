"""The delivery worker: order, waits, crashes, slow targets, bounded stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhfd_alerts.channel import Sessions
from rlhfd_alerts.delivery import DeliveryWorker
from rlhfd_alerts.errors import DeliveryError
from rlhfd_alerts.grouping import group
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.receivers import Receiver
from rlhfd_alerts.testing import (
    SECRET,
    ManualClock,
    MemoryReceiver,
    Reply,
    WebhookServer,
    example_finding,
    webhook_receiver,
)

SEND_AND_DIE = """
import asyncio, os, signal, sys
from pathlib import Path
from rlhfd_alerts.delivery import DeliveryWorker
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.testing import webhook_receiver

class DiesAfterSending:
    def __init__(self, receiver):
        self.receiver = receiver
    async def send(self, *arguments):
        await self.receiver.send(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

async def main(path, url, secret):
    receiver = webhook_receiver(url, secret)
    await DeliveryWorker("hook", DiesAfterSending(receiver), Outbox.open(Path(path))).run()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox.open(tmp_path / "outbox.db")
    yield opened
    opened.close()


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)


def put(outbox: Outbox, *rules: str, targets: tuple[str, ...] = ("hook",), now: float) -> list[str]:
    """Commit one firing alert per rule; return the notifications' ids."""
    transitions = [Lifecycle().observe(example_finding(rule=rule), 1) for rule in rules]
    decided = [transition for transition in transitions if transition is not None]
    notifications = group(decided)
    outbox.commit(decided, notifications, targets, 1, now)
    return [notification.id for notification in notifications]


@contextlib.asynccontextmanager
async def open_sessions() -> AsyncIterator[Sessions]:
    sessions = Sessions()
    try:
        yield sessions
    finally:
        await sessions.close()


def hook(url: str, sessions: Sessions) -> Receiver:
    return webhook_receiver(url, sessions=sessions)


def retry(retry_after: float | None = None) -> DeliveryError:
    return DeliveryError("HTTP 503", permanent=False, retry_after=retry_after)


def test_what_was_owed_before_the_start_and_what_comes_later_is_delivered_in_order(outbox: Outbox) -> None:
    async def scenario() -> None:
        clock, receiver = ManualClock(), MemoryReceiver()
        ids = put(outbox, "a", "b", now=clock.now())
        worker = DeliveryWorker("hook", receiver, outbox, clock)
        task = asyncio.create_task(worker.run())
        await until(lambda: worker.counters.delivered == 2)
        ids += put(outbox, "c", now=clock.now())
        worker.notify()
        await until(lambda: worker.counters.delivered == 3)
        assert [sent for sent, _ in receiver.sent] == ids
        assert outbox.counts() == {("hook", "delivered"): 3}
        await worker.stop(1.0)
        await task

    run(scenario())


async def pass_time_until(clock: ManualClock, condition: Callable[[], bool]) -> None:
    """Advance the clock by exactly what the worker waits for, wait by wait."""
    passed: list[float | None] = []
    while not condition():
        await until(lambda: condition() or len(clock.waits) > len(passed))
        for seconds in clock.waits[len(passed) :]:
            passed.append(seconds)
            clock.advance(seconds or 0.0)


def test_promise_D4_no_attempt_comes_before_the_time_the_receiver_asked_for(outbox: Outbox) -> None:
    async def scenario() -> None:
        clock, receiver = ManualClock(), MemoryReceiver(retry(30.0), retry(), retry())
        started = clock.now()
        put(outbox, "a", "b", now=started)
        worker = DeliveryWorker("hook", receiver, outbox, clock, random=lambda: 1.0)
        task = asyncio.create_task(worker.run())
        await pass_time_until(clock, lambda: worker.counters.delivered == 2)
        # The whole target waits 30 s, "b" too; the second and third failure in a row wait 2 and 4 s.
        assert [at - started for _, at in receiver.attempts] == pytest.approx([0, 30, 32, 36, 36], abs=0.01)
        assert (worker.counters.failed, worker.counters.dead, worker.counters.last_error) == (3, 0, None)
        await worker.stop(1.0)
        await task

    run(scenario())


def test_promise_D4_a_429_on_the_wire_holds_the_next_attempt_back(outbox: Outbox) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        async with WebhookServer(Reply(429, {"Retry-After": "600"})) as server, open_sessions() as sessions:
            put(outbox, "a", now=clock.now())
            worker = DeliveryWorker("hook", hook(server.url, sessions), outbox, clock)
            task = asyncio.create_task(worker.run())
            await until(lambda: len(clock.waits) == 1)
            assert clock.waits == [600.0]
            assert outbox.next_due("hook", clock.now()) == clock.now() + 600.0  # known after a restart, too
            clock.advance(599.0)
            worker.notify()
            await until(lambda: len(clock.waits) == 2)
            assert len(server.requests) == 1
            clock.advance(1.5)
            await server.wait_for(2)
            await worker.stop(5.0)
            await task
            first, second = server.requests
            assert first.headers["webhook-id"] == second.headers["webhook-id"]
            assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) >= 600

    run(scenario())


def test_promise_D5_fire_then_resolve_during_an_outage_arrive_both_and_in_order(outbox: Outbox) -> None:
    async def scenario() -> None:
        clock, receiver = ManualClock(), MemoryReceiver(*(retry() for _ in range(12)))
        lifecycle = Lifecycle()
        for record_id, active in ((1, True), (2, False)):
            transition = lifecycle.observe(example_finding(active=active), record_id)
            assert transition is not None
            outbox.commit([transition], group([transition]), ["hook"], record_id, clock.now())
        worker = DeliveryWorker("hook", receiver, outbox, clock)
        task = asyncio.create_task(worker.run())
        await pass_time_until(clock, lambda: worker.counters.delivered == 2)
        assert [json.loads(content)["type"] for _, content in receiver.sent] == ["alert.firing", "alert.resolved"]
        await worker.stop(1.0)
        await task

    run(scenario())


def test_promise_D8_a_message_the_receiver_chokes_on_holds_up_no_other(outbox: Outbox) -> None:
    class Chokes(MemoryReceiver):
        async def send(self, notification_id: str, body: bytes, now: float) -> None:
            if b'"rule":"poison"' in body:
                raise retry()
            await super().send(notification_id, body, now)

    async def scenario() -> None:
        clock = ManualClock()
        started = clock.now()
        put(outbox, "poison", *(f"rule{number}" for number in range(50)), now=started)
        worker = DeliveryWorker("hook", Chokes(), outbox, clock, random=lambda: 1.0)
        task = asyncio.create_task(worker.run())
        await pass_time_until(clock, lambda: worker.counters.delivered == 50)
        assert clock.now() - started < 10
        assert outbox.counts() == {("hook", "delivered"): 50, ("hook", "pending"): 1}
        await worker.stop(1.0)
        await task

    run(scenario())


def test_a_refused_message_is_dead_and_the_next_follows_at_once(outbox: Outbox) -> None:
    async def scenario() -> None:
        clock, receiver = ManualClock(), MemoryReceiver(DeliveryError("HTTP 400", permanent=True))
        put(outbox, "a", "b", now=clock.now())
        worker = DeliveryWorker("hook", receiver, outbox, clock)
        task = asyncio.create_task(worker.run())
        await until(lambda: worker.counters.delivered == 1)
        assert (worker.counters.dead, worker.counters.failed) == (1, 1)
        assert outbox.counts() == {("hook", "dead"): 1, ("hook", "delivered"): 1}
        await worker.stop(1.0)
        await task

    run(scenario())


@pytest.mark.parametrize("end", [None, DeliveryError("HTTP 400", permanent=True)])
def test_an_answer_ends_a_row_of_failures(outbox: Outbox, end: DeliveryError | None) -> None:
    async def scenario() -> None:
        clock, receiver = ManualClock(), MemoryReceiver(*(retry() for _ in range(5)), *([end] if end else []))
        put(outbox, "a", now=clock.now())
        worker = DeliveryWorker("hook", receiver, outbox, clock, random=lambda: 1.0)
        task = asyncio.create_task(worker.run())
        await pass_time_until(clock, lambda: worker.counters.delivered + worker.counters.dead == 1)
        await until(lambda: clock.waits[-1] is None)
        receiver.fail(retry())
        put(outbox, "b", now=clock.now())
        worker.notify()
        await until(lambda: clock.waits[-1] is not None)
        assert clock.waits[-1] == pytest.approx(1.0, abs=0.01)
        await worker.stop(1.0)
        await task

    run(scenario())


def test_a_defect_of_a_receiver_is_a_failed_attempt_and_not_the_end(outbox: Outbox) -> None:
    class Broken(MemoryReceiver):
        async def send(self, notification_id: str, body: bytes, now: float) -> None:
            if not self.attempts:
                self.attempts.append((notification_id, now))
                raise RuntimeError("canary")
            await super().send(notification_id, body, now)

    async def scenario() -> None:
        clock = ManualClock()
        put(outbox, "a", now=clock.now())
        worker = DeliveryWorker("hook", Broken(), outbox, clock)
        task = asyncio.create_task(worker.run())
        await until(lambda: worker.counters.failed == 1)
        assert worker.counters.last_error == "internal error: RuntimeError"
        await pass_time_until(clock, lambda: worker.counters.delivered == 1)
        assert worker.counters.last_error is None
        await worker.stop(1.0)
        await task

    run(scenario())


def test_what_was_accepted_is_not_sent_again_when_the_outbox_cannot_be_written(outbox: Outbox, tmp_path: Path) -> None:
    locker = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)

    class Locks(MemoryReceiver):
        async def send(self, notification_id: str, body: bytes, now: float) -> None:
            await super().send(notification_id, body, now)
            locker.execute("BEGIN IMMEDIATE")

    async def scenario() -> None:
        clock, receiver = ManualClock(), Locks()
        put(outbox, "a", now=clock.now())
        worker = DeliveryWorker("hook", receiver, outbox, clock)
        task = asyncio.create_task(worker.run())
        await until(lambda: len(clock.waits) == 1)
        locker.execute("ROLLBACK")
        await pass_time_until(clock, lambda: outbox.counts() == {("hook", "delivered"): 1})
        assert len(receiver.attempts) == 1
        await worker.stop(1.0)
        await task

    run(scenario())
    locker.close()


def test_promise_D2_kill_9_between_send_and_mark_sends_again_under_the_same_id(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "outbox.db"
        outbox = Outbox.open(path)
        put(outbox, "a", now=time.time())
        outbox.close()
        async with WebhookServer() as server, open_sessions() as sessions:
            arguments = (sys.executable, "-c", SEND_AND_DIE, str(path), server.url, SECRET)
            process = await asyncio.create_subprocess_exec(*arguments)
            assert await process.wait() == -signal.SIGKILL
            outbox = Outbox.open(path)
            worker = DeliveryWorker("hook", hook(server.url, sessions), outbox)
            task = asyncio.create_task(worker.run())
            await until(lambda: worker.counters.delivered == 1)
            await worker.stop(1.0)
            await task
            assert outbox.counts() == {("hook", "delivered"): 1}
            outbox.close()
        first, second = server.requests
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.body == second.body

    run(scenario())


def test_promise_D4_a_target_that_hangs_delays_no_other_and_stopping_it_is_bounded(outbox: Outbox) -> None:
    async def scenario() -> None:
        replies = (Reply(hang=True), Reply(hang=True))
        async with WebhookServer(*replies) as slow, WebhookServer() as fast, open_sessions() as sessions:
            put(outbox, "a", "b", "c", targets=("slow", "fast"), now=time.time())
            workers = {
                "slow": DeliveryWorker("slow", hook(slow.url, sessions), outbox),
                "fast": DeliveryWorker("fast", hook(fast.url, sessions), outbox),
            }
            tasks = [asyncio.create_task(worker.run()) for worker in workers.values()]
            await slow.wait_for(1)
            await until(lambda: workers["fast"].counters.delivered == 3, seconds=12.0)
            assert len(slow.requests) == 1
            started = time.monotonic()
            for worker in (*workers.values(), *workers.values()):
                await worker.stop(0.2)
            assert time.monotonic() - started < 12  # the request itself takes 15 s
            await asyncio.gather(*tasks)
            assert outbox.counts() == {("slow", "pending"): 3, ("fast", "delivered"): 3}

    run(scenario())


def test_a_stop_first_delivers_what_is_due(outbox: Outbox) -> None:
    async def scenario() -> None:
        receiver = MemoryReceiver()
        worker = DeliveryWorker("hook", receiver, outbox)
        task = asyncio.create_task(worker.run())
        await asyncio.sleep(0)
        put(outbox, "a", "b", now=time.time())
        await worker.stop(5.0)
        await task
        assert len(receiver.sent) == 2

    run(scenario())


def test_a_worker_stopped_before_it_runs_does_nothing(outbox: Outbox) -> None:
    async def scenario() -> None:
        receiver = MemoryReceiver()
        put(outbox, "a", now=time.time())
        worker = DeliveryWorker("hook", receiver, outbox)
        await worker.stop(1.0)
        await worker.run()
        assert receiver.attempts == []

    run(scenario())


def test_a_cancellation_from_outside_is_not_swallowed(outbox: Outbox) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(DeliveryWorker("hook", MemoryReceiver(), outbox).run())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())
