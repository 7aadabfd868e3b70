"""Silences, acknowledgements, timers and the outbox of a real daemon, by the command line, over kills and restarts."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlhfd_alerts.testing import SECRET
from rlhfd_daemon.control import ask
from rlhfd_emitter import Emitter
from support import DaemonProcess, invoked, running_daemon, wait_for

# Nobody listens there, so what is owed stays to be seen.
NOWHERE = '[targets.ops]\nurl = "http://127.0.0.1:9/"\nallow_private = true\nsecret_env = "HOOK_SECRET"\n'
SECRET_ENV = {"HOOK_SECRET": SECRET}
FOR = NOWHERE + '[[alerts.rules]]\nmatchers = [\'rule="non_finite"\']\nfor = "5s"\n'


@pytest.fixture(autouse=True)
def _no_daemon_is_left_behind() -> Iterator[None]:
    yield
    DaemonProcess.kill_all()
    for child in psutil.Process().children():
        child.kill()


def rlhfd(daemon: DaemonProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return invoked(*arguments, "--config", daemon.config)


def answer(daemon: DaemonProcess, *arguments: str) -> dict[str, Any]:
    done = rlhfd(daemon, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def owed(daemon: DaemonProcess) -> list[tuple[str, str]]:
    """Run and state of each message, oldest first."""
    messages = answer(daemon, "outbox", "list", "--all")["messages"]
    return [(one["run"], one["about"]) for one in reversed(messages)]


def emitting(daemon: DaemonProcess, run: str, *values: float) -> Emitter:
    emitter = Emitter(run, role="trainer", boot="boot-1", endpoint=daemon.endpoint)
    for step, value in enumerate(values, 1):
        emitter.emit(step, {"train/loss": value})
    return emitter


def waiting(daemon: DaemonProcess) -> list[dict[str, Any]]:
    """What will fire if it lasts; asked without the command line, which may take longer than it lasts."""
    said: Any = ask(daemon.control, "GET", "/api/v1/alerts")["pending"]
    found: list[dict[str, Any]] = said
    return found


def episode(daemon: DaemonProcess, run: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = wait_for(
        lambda: [one for one in answer(daemon, "alerts", "list")["episodes"] if one["run"] == run]
    )
    return found[0]


def test_promise_D11_silences_and_acknowledgements_survive_kill_9_the_moment_the_command_returns(
    short_dir: Path,
) -> None:
    daemon = DaemonProcess(short_dir, NOWHERE, SECRET_ENV).start()
    emitting(daemon, "loud", math.nan).close()
    known = episode(daemon, "loud")
    assert (known["targets"], known["acknowledged"]) == ({"ops": "critical"}, None)
    assert rlhfd(daemon, "alerts", "ack", known["id"], "-a", "ada", "-m", "on it").returncode == 0
    added = rlhfd(daemon, "silence", "add", 'run="quiet"', "-d", "1h", "-a", "ada", "-m", "known")
    daemon.kill()
    daemon.start()
    (silence,) = answer(daemon, "silence", "list")["silences"]
    assert (silence["id"], silence["state"], silence["matchers"]) == (added.stdout.strip(), "active", ['run="quiet"'])
    assert episode(daemon, "loud")["acknowledged"]["author"] == "ada"

    emitting(daemon, "quiet", math.nan).close()
    assert episode(daemon, "quiet")["muted"] == f"silenced by {silence['id']}"
    assert owed(daemon) == [("loud", "firing")]
    assert rlhfd(daemon, "silence", "expire", silence["id"]).returncode == 0
    wait_for(lambda: owed(daemon) == [("loud", "firing"), ("quiet", "firing")])
    assert answer(daemon, "silence", "list")["silences"] == []
    daemon.stop()


def test_promise_D13_what_changed_while_it_was_away_is_told_once_and_the_rest_not_again(short_dir: Path) -> None:
    daemon = DaemonProcess(short_dir, NOWHERE, SECRET_ENV).start()
    stays, ends, begins = (emitting(daemon, run, *values) for run, values in (
        ("stays", [math.nan]), ("ends", [math.nan]), ("begins", [1.0]),
    ))  # fmt: skip
    wait_for(lambda: sorted(owed(daemon)) == [("ends", "firing"), ("stays", "firing")])
    daemon.kill()
    for step in range(2, 9):
        ends.emit(step, {"train/loss": 1.0})
    begins.emit(2, {"train/loss": math.nan})
    daemon.start()
    wait_for(lambda: len(owed(daemon)) >= 4)
    for one in (stays, ends, begins):
        one.close()
    daemon.kill()
    daemon.start()
    assert sorted(owed(daemon)) == [("begins", "firing"), ("ends", "firing"), ("ends", "resolved"), ("stays", "firing")]
    daemon.stop()


def test_promise_D10_for_goes_on_over_kill_9_and_fires_in_time(short_dir: Path) -> None:
    daemon = DaemonProcess(short_dir, FOR, SECRET_ENV).start()
    emitter = emitting(daemon, "slow", math.nan)
    pending = wait_for(lambda: waiting(daemon))[0]
    assert owed(daemon) == []
    daemon.kill()
    daemon.start()
    wait_for(lambda: owed(daemon) == [("slow", "firing")])
    message = answer(daemon, "outbox", "list")["messages"][0]
    assert message["created_at"] >= pending["fires_at"]
    assert episode(daemon, "slow")["since"] == pytest.approx(pending["fires_at"])
    emitter.close()
    daemon.stop()


def test_what_is_owed_can_be_dropped_and_nothing_else(short_dir: Path) -> None:
    with running_daemon(short_dir, NOWHERE, SECRET_ENV) as daemon:
        emitting(daemon, "r", math.nan).close()
        wait_for(lambda: owed(daemon))
        (message,) = answer(daemon, "outbox", "list")["messages"]
        assert rlhfd(daemon, "outbox", "drop").returncode != 0, "everything is never meant"
        assert "messages are tried again" in rlhfd(daemon, "outbox", "retry", message["id"]).stdout
        assert rlhfd(daemon, "outbox", "drop", message["id"]).stdout == "1 messages dropped\n"
        assert "there is no undelivered message" in rlhfd(daemon, "outbox", "drop", message["id"]).stderr
        assert owed(daemon) == []


def test_mistakes_are_said_in_one_line(short_dir: Path) -> None:
    with running_daemon(short_dir, NOWHERE, SECRET_ENV) as daemon:
        for arguments, said in (
            (("silence", "add", "run=~(a+)+"), "must not be repeated"),
            (("silence", "add", 'run=~".*"'), "needs a matcher"),
            (("silence", "add", "run=r", "-d", "soon"), "is no duration"),
            (("silence", "expire", "sil_x"), "there is no silence"),
            (("alerts", "ack", "ep_x"), "there is no episode"),
            (("alerts", "show", "ep_x"), "no open episode"),
        ):
            done = rlhfd(daemon, *arguments)
            assert done.returncode != 0
            assert said in done.stderr
            assert "Traceback" not in done.stderr
        assert rlhfd(daemon, "route", "test", "run=r").stdout.startswith("ops: route {}, group_by episode")


def test_promise_D15_frames_that_found_no_room_while_the_daemon_was_away_are_an_alert(short_dir: Path) -> None:
    daemon = DaemonProcess(short_dir, NOWHERE, SECRET_ENV)
    emitter = Emitter("r", role="trainer", boot="boot-1", endpoint=daemon.endpoint, capacity_bytes=1)
    for step in range(2000):
        emitter.emit(step, {f"metric/{number}": 1.0 for number in range(20)})
    assert emitter.drops["metrics:ring_full"] > 0
    daemon.start()
    wait_for(lambda: owed(daemon) == [("r", "firing")])
    (known,) = answer(daemon, "alerts", "list")["episodes"]
    assert known["rule"] == "frames_lost"
    assert known["summary"].endswith("metrics:ring_full")
    emitter.close()
    daemon.stop()
