"""What is decided arrives: a real daemon, killed at any moment, and flooded."""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rlhfd_alerts.testing import SECRET
from rlhfd_daemon.errors import ControlError
from rlhfd_emitter import Emitter
from services import Server
from support import DaemonProcess, wait_for

KILLS = int(os.environ.get("RLHFD_TEST_KILLS", "8"))
SECRET_ENV = {"HOOK_SECRET": SECRET}
SIGNED = 'secret_env = "HOOK_SECRET"'


def broken(daemon: DaemonProcess, run: str) -> Emitter:
    emitter = Emitter(run, role="trainer", boot="boot-1", endpoint=daemon.endpoint)
    emitter.emit(1, {"train/loss": math.nan})
    return emitter


def firing(daemon: DaemonProcess) -> int:
    """How many alerts fire; a daemon that is busy with a flood answers the next time."""
    with contextlib.suppress(ControlError):
        return len(daemon.status()["alerts"])
    return 0


def told(server: Server, rule: str = "non_finite") -> dict[str, set[str]]:
    """By run the distinct ids of the messages that ``rule`` fires."""
    found: dict[str, set[str]] = defaultdict(set)
    for request, body in zip(list(server.requests), server.bodies(), strict=False):
        if body["type"] == "alert.firing" and body["data"]["rule"] == rule:
            found[body["data"]["run"]].add(request.headers["webhook-id"])
    return found


@pytest.mark.timeout(240 + 30 * KILLS)
def test_promise_D1_kills_at_any_moment_lose_no_alert_and_make_no_second_one(
    short_dir: Path, serve: Callable[..., Server]
) -> None:
    """RLHFD_TEST_KILLS=200 makes it long. Some kills hit between the frame log and the decision, or between that and
    the request; some answers are lost with the daemon, so that it sends again under the same id."""
    server, chance = serve(), random.Random(20261125)
    daemon = DaemonProcess(short_dir, server.target("ops", "webhook", SIGNED), SECRET_ENV).start()
    emitters = []
    for number in range(KILLS):
        emitters.append(broken(daemon, f"run-{number}"))
        time.sleep(chance.uniform(0.0, 0.5))  # the moment of the kill
        daemon.kill()
        daemon.start()
    wanted = {f"run-{number}" for number in range(KILLS)}
    wait_for(lambda: set(told(server)) == wanted, 120)
    for emitter in emitters:
        emitter.close()
    daemon.stop()
    assert {run: len(ids) for run, ids in told(server).items()} == dict.fromkeys(wanted, 1)


def test_promise_D1_what_was_recorded_and_not_yet_decided_at_a_kill_is_told_after_the_restart(
    short_dir: Path, serve: Callable[..., Server]
) -> None:
    server = serve()
    daemon = DaemonProcess(short_dir, server.target("ops", "webhook", SIGNED), SECRET_ENV).start()
    broken(daemon, "first").close()
    wait_for(lambda: set(told(server)) == {"first"})
    daemon.kill()
    # As after a kill between the two: the frame is in the log, and the file of alerts knows nothing of it.
    for path in daemon.state.glob("alerts.sqlite3*"):
        path.unlink()
    before = len(server.requests)
    daemon.start()
    wait_for(lambda: len(server.requests) > before)
    assert {run: len(ids) for run, ids in told(server).items()} == {"first": 1}, "the same id, which a receiver drops"
    daemon.stop()


def is_over(daemon: DaemonProcess, emitter: Emitter, first: int) -> None:
    """Emit what is right again, until the daemon believes it."""
    for step in range(first, first + 10):
        emitter.emit(step, {"train/loss": 1.0})
    wait_for(lambda: not daemon.status()["episodes"])


def test_promise_D5_what_fires_and_ends_during_an_outage_is_told_with_both_times(
    short_dir: Path, serve: Callable[..., Server]
) -> None:
    """Also to a target that wants no ends, and over a kill; once it has heard that something fires, no more."""
    down = {name: Server() for name in ("hook", "quiet", "chat")}
    config = down["hook"].target("hook", "webhook", SIGNED) + down["chat"].target("chat", "slack")
    config += down["quiet"].target("quiet", "webhook", SIGNED, "send_resolved = false")
    for one in down.values():
        one.close()
    daemon = DaemonProcess(short_dir, config, SECRET_ENV).start()
    emitter = broken(daemon, "ppo")
    wait_for(lambda: daemon.status()["episodes"])
    is_over(daemon, emitter, 2)
    wait_for(lambda: {one.get("pending") for one in daemon.status()["targets"].values()} == {2})
    daemon.kill()
    daemon.start()
    up = {name: serve(port=one.port) for name, one in down.items()}
    wait_for(lambda: all(len(one.requests) >= 2 for one in up.values()), 60)
    for name in ("hook", "quiet"):
        firing, resolved = up[name].bodies()
        assert (firing["type"], resolved["type"]) == ("alert.firing", "alert.resolved")
        begun, ended = firing["data"]["episode"], resolved["data"]["episode"]
        assert (begun["id"], begun["opened_at"], begun["ended_at"]) == (ended["id"], ended["opened_at"], None)
        assert ended["opened_at"] < ended["ended_at"]
    headings = [body["blocks"][0]["text"]["text"] for body in up["chat"].bodies()]
    assert ["CRITICAL" in headings[0], "RESOLVED" in headings[1]] == [True, True]

    wait_for(lambda: {one.get("delivered") for one in daemon.status()["targets"].values()} == {2})
    emitter.emit(20, {"train/loss": math.nan})
    wait_for(lambda: {one.get("delivered") for one in daemon.status()["targets"].values()} == {3})
    is_over(daemon, emitter, 21)
    wait_for(lambda: len(up["hook"].requests) == 4)
    emitter.close()
    daemon.stop()
    assert [body["type"] for body in up["quiet"].bodies()] == ["alert.firing", "alert.resolved", "alert.firing"]


def test_promise_D17_ten_thousand_findings_at_once_are_few_messages_in_bounded_memory(
    short_dir: Path, serve: Callable[..., Server]
) -> None:
    one, other = serve(), serve()
    targets = one.target("one", "webhook", SIGNED) + other.target("other", "slack")
    daemon = DaemonProcess(short_dir, targets, SECRET_ENV).start()
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    before = process.memory_info().rss
    emitters = [
        Emitter("flood", role="trainer", rank=rank, boot="boot-1", endpoint=daemon.endpoint) for rank in range(50)
    ]
    for emitter in emitters:
        emitter.emit(1, {f"metric/{number}": math.nan for number in range(200)})
    wait_for(lambda: firing(daemon) >= 10_000, 120)
    emitters.append(broken(daemon, "another"))
    wait_for(lambda: "another" in told(one), 120)
    grown = process.memory_info().rss - before
    for emitter in emitters:
        emitter.close()
    daemon.stop()
    assert len(one.requests) <= 6
    assert len(other.requests) <= 6
    assert set(told(one)) == {"flood", "another"}
    assert grown < 300e6
