"""What the daemon notices of its targets, and when it withholds its heartbeat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from rlhfd_alerts.grouping import group
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.receivers.webhook import WebhookSettings
from rlhfd_alerts.testing import SECRET, Reply, WebhookServer, example_finding
from rlhfd_daemon.config import Config
from rlhfd_daemon.config_targets import HeartbeatConfig
from rlhfd_daemon.delivery import Delivery
from rlhfd_daemon.heartbeat import Heartbeat
from rlhfd_daemon.target_state import TargetState, TargetStates


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_promise_D15_five_minutes_of_failures_and_their_end_are_noticed_once_also_across_a_restart(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        outbox = Outbox.open(tmp_path / "alerts.sqlite3")
        transition = Lifecycle().observe(example_finding(), 1)
        assert transition is not None
        outbox.commit([transition], group([transition]), ["ops"], 1, time.time())
        async with WebhookServer(Reply(503)) as server:
            settings = WebhookSettings(url=server.url, secret_env="S", allow_private=True)
            config = Config(targets={"ops": settings})
            delivery = Delivery({"S": SECRET}, tmp_path / "targets.json")
            await delivery.start(config, outbox)
            await until(lambda: delivery.workers["ops"].counters.failing_since is not None)
            since = delivery.workers["ops"].counters.failing_since
            assert since is not None
            assert delivery.check(since + 299) == []
            (seen,) = delivery.check(since + 301)
            assert (seen.event, seen.fields["target"]) == ("target_degraded", "ops")
            assert seen.fields["state"] == "has been failing for 301 s"
            assert delivery.check(since + 302) == []
            await delivery.stop(0.0)
            again = Delivery({"S": SECRET}, tmp_path / "targets.json")
            await again.start(config, outbox)
            await until(lambda: again.workers["ops"].counters.delivered == 1)
            assert [one.event for one in again.check(time.time())] == ["target_recovered"]
            assert again.check(time.time()) == []
            assert again.status()["ops"]["delivered"] == 1
            await again.stop(1.0)
        outbox.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_target_that_is_no_longer_configured_is_no_longer_degraded(tmp_path: Path) -> None:
    async def scenario() -> None:
        TargetStates(tmp_path / "targets.json").set("gone", TargetState(degraded=True))
        outbox = Outbox.open(tmp_path / "alerts.sqlite3")
        delivery = Delivery({}, tmp_path / "targets.json")
        await delivery.start(Config(), outbox)
        assert [(one.event, one.fields) for one in delivery.check(1.0)] == [("target_recovered", {"target": "gone"})]
        assert TargetStates(tmp_path / "targets.json").known == {}
        await delivery.stop(1.0)
        outbox.close()

    asyncio.run(scenario())


def test_insecure_is_shown(tmp_path: Path) -> None:
    async def scenario() -> None:
        outbox = Outbox.open(tmp_path / "alerts.sqlite3")
        delivery = Delivery({"S": SECRET}, tmp_path / "targets.json")
        targets = {name: WebhookSettings(url="https://h", secret_env="S", insecure=name == "a") for name in ("a", "b")}
        await delivery.start(Config(targets=dict(targets)), outbox)
        status = delivery.status()
        assert (status["a"].get("insecure"), status["b"].get("insecure")) == (True, None)
        await delivery.stop(1.0)
        outbox.close()

    asyncio.run(scenario())


def test_a_state_file_that_is_none_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "targets.json").write_text("{nonsense")
    states = TargetStates(tmp_path / "targets.json")
    assert states.known == {}
    states.set("a", TargetState(disabled_at=1.0, error="HTTP 410"))
    assert TargetStates(tmp_path / "targets.json").known["a"].error == "HTTP 410"
    states.set("a", TargetState())
    assert TargetStates(tmp_path / "targets.json").known == {}


def test_promise_D14_a_heartbeat_is_withheld_as_long_as_something_is_wrong() -> None:
    async def scenario() -> None:
        reasons = ["records are not written"]
        async with WebhookServer() as server:
            config = HeartbeatConfig(url=server.url, interval_seconds=1.0, allow_private=True)
            heart = Heartbeat(config, {}, lambda: reasons[0] if reasons else None)
            heart.start()
            await until(lambda: heart.withheld_total >= 1)
            assert server.requests == []
            reasons.clear()
            await server.wait_for(1)
            assert server.requests[0].method == "GET"
            await heart.stop()
            await heart.stop()
        idle = Heartbeat(HeartbeatConfig(), {}, lambda: None)
        idle.start()
        assert idle.status()["enabled"] is False
        await idle.stop()

    asyncio.run(asyncio.wait_for(scenario(), 30))
