"""A receiver that is down for long: what happened meanwhile arrives, in order; repeats have not piled up."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from rlhfd_alerts.channel import Sessions
from rlhfd_alerts.context import Context
from rlhfd_alerts.delivery import DeliveryWorker
from rlhfd_alerts.groups import Dispatcher
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.receivers import make_receiver
from rlhfd_alerts.receivers.slack import SlackSettings
from rlhfd_alerts.target import Target
from rlhfd_alerts.telling import Outgoing
from rlhfd_alerts.testing import ManualClock, WebhookServer, webhook_receiver
from timelines import World

MINUTE, DAY = 60.0, 86_400.0
IN_ORDER = {
    "e": ["alert.firing", "alert.resolved", "alert.firing"],
    "f": ["alert.firing", "alert.resolved"],
    "g": ["alert.firing"],
}


class Stored(World):
    """What is told goes into an outbox."""

    def __init__(self, make: Callable[[], Dispatcher], outbox: Outbox) -> None:
        super().__init__(make)
        self.outbox = outbox

    def _note(self, told: Iterable[Outgoing]) -> None:
        told = list(told)
        self.outbox.tell([], told, 0, self.now)
        super()._note(told)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox.open(tmp_path / "outbox.db")
    yield opened
    opened.close()


async def closed_port() -> int:
    async with WebhookServer() as server:
        return server.port


async def let_pass(world: Stored, clock: ManualClock, worker: DeliveryWorker, ends: Callable[[], bool]) -> None:
    """Let the time pass, from one thing that the worker waits for to the next."""
    deadline = time.monotonic() + 60
    while not ends():
        assert time.monotonic() < deadline
        waited = clock.waits[-1] if clock.waits else 0.0
        clock.advance(5 * MINUTE if waited is None else max(waited, 0.01))
        world.until(clock.now(), 10 * MINUTE)
        count = len(clock.waits)
        worker.notify()
        while len(clock.waits) == count:
            assert time.monotonic() < deadline
            await asyncio.sleep(0)


def live(world: Stored) -> None:
    world.at(0, "+e/a").at(60, "+f/b!").at(120, "-f/b!").at(200, "-e/a").at(300, "+g/c").at(400, "+e/a")


@pytest.mark.parametrize("outage", [10 * MINUTE, DAY])
def test_promise_D3_everything_of_an_outage_arrives_in_order_and_no_repeats_have_piled_up(
    outbox: Outbox, outage: float
) -> None:
    async def scenario() -> None:
        port, sessions, clock = await closed_port(), Sessions(), ManualClock(0.0)
        world = Stored(lambda: Dispatcher(None, ("hook",)), outbox)
        receiver = webhook_receiver(f"http://127.0.0.1:{port}/", sessions=sessions)
        worker = DeliveryWorker("hook", receiver, outbox, clock, random=lambda: 1.0)
        live(world)
        task = asyncio.create_task(worker.run())
        await let_pass(world, clock, worker, lambda: clock.now() > outage)
        assert worker.counters.failed >= outage / 310
        async with WebhookServer(port=port) as server:
            await let_pass(world, clock, worker, lambda: not outbox.counts().get(("hook", "pending")))
            found = defaultdict(list)
            for request in server.requests:
                body = json.loads(request.body)
                found[body["data"]["episode"]["id"]].append(body["type"])
            assert found == IN_ORDER
            assert len({request.headers["webhook-id"] for request in server.requests}) == 6
            await let_pass(world, clock, worker, lambda: clock.now() > 2 * DAY)
            again = [json.loads(request.body)["data"] for request in server.requests[6:]]
            assert [one["episode"]["id"] for one in again].count("g") >= 5, "now it is told again as ever"
            await worker.stop(5.0)
            await task
        await sessions.close()

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_promise_D3_a_chat_service_gets_what_gathered_in_a_day_in_a_few_messages(outbox: Outbox) -> None:
    async def scenario() -> None:
        port, sessions, clock = await closed_port(), Sessions(), ManualClock(0.0)
        world = Stored(lambda: Dispatcher(None, ("hook",)), outbox)
        settings = SlackSettings(url=f"http://127.0.0.1:{port}/", allow_private=True)
        receiver = make_receiver(Target("hook", settings), Context(sessions=sessions))
        worker = DeliveryWorker("hook", receiver, outbox, clock, random=lambda: 1.0)
        world.at(0, *(f"+e{number}/rule{number}" for number in range(12)))
        world.at(100, *(f"-e{number}/rule{number}" for number in range(6)))
        task = asyncio.create_task(worker.run())
        await let_pass(world, clock, worker, lambda: clock.now() > DAY)
        assert outbox.counts() == {("hook", "pending"): 18}
        async with WebhookServer(port=port) as server:
            await let_pass(world, clock, worker, lambda: not outbox.counts().get(("hook", "pending")))
            told = [json.loads(request.body)["blocks"][0]["text"]["text"] for request in server.requests]
            await worker.stop(5.0)
            await task
        await sessions.close()
        assert told == ["🟠 12 messages: 12 warning", "✅ 6 messages: 6 resolved"]

    asyncio.run(asyncio.wait_for(scenario(), 120))
