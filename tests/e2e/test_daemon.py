"""Real processes end to end: emitter, daemon, webhook receiver, and what kills, restarts and reloads do to them."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import standardwebhooks

from rlhfd_alerts.testing import SECRET, ReceivedRequest, Reply, WebhookServer
from rlhfd_daemon.recording import verify
from rlhfd_emitter import Emitter
from support import DaemonProcess, running_daemon, wait_for

SECRET_ENV = {"HOOK_SECRET": SECRET}


class Hook:
    """A webhook receiver in a thread of its own."""

    def __init__(self, *replies: Reply) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._serve(replies), self._loop).result(10)

    async def _serve(self, replies: tuple[Reply, ...]) -> WebhookServer:
        return await WebhookServer(*replies).__aenter__()

    @property
    def requests(self) -> list[ReceivedRequest]:
        return self._server.requests

    def target(self, name: str = "ops") -> str:
        """The section of the configuration that sends alerts here."""
        return f'[targets.{name}]\nurl = "{self._server.url}"\nsecret_env = "HOOK_SECRET"\nallow_private = true\n'

    def wait(self, count: int = 1) -> ReceivedRequest:
        """The ``count``-th request, once it is there."""
        wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(autouse=True)
def _no_daemon_is_left_behind() -> Iterator[None]:
    yield
    DaemonProcess.kill_all()
    for child in psutil.Process().children():
        child.kill()


@pytest.fixture
def make_hook() -> Iterator[Callable[..., Hook]]:
    made: list[Hook] = []

    def make(*replies: Reply) -> Hook:
        made.append(Hook(*replies))
        return made[-1]

    yield make
    for hook in made:
        hook.close()


def verified(request: ReceivedRequest) -> dict[str, Any]:
    """The body, after an independent implementation has checked its signature."""
    body: dict[str, Any] = standardwebhooks.Webhook(SECRET).verify(request.body.decode(), dict(request.headers))
    return body


def emitted(endpoint: str, *values: float, run: str = "ppo", role: str = "trainer", first: int = 1) -> Emitter:
    emitter = Emitter(run, role=role, boot="boot-1", endpoint=endpoint)
    for step, value in enumerate(values, first):
        emitter.emit(step, {"train/loss": value})
    return emitter


def refused(daemon: DaemonProcess) -> tuple[int, str]:
    """Exit code and output of a daemon that is not to start."""
    command = [sys.executable, "-m", "rlhfd_daemon", "daemon", "--config", str(daemon.config)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, env=daemon.environ)
    return result.returncode, result.stdout + result.stderr


def test_a_nan_becomes_a_signed_webhook_that_names_run_metric_and_step(
    short_dir: Path, make_hook: Callable[..., Hook]
) -> None:
    hook = make_hook()
    with running_daemon(short_dir, hook.target(), SECRET_ENV):
        emitted(f"ipc://{short_dir}/rlhfd.sock", 1.0, 0.9, math.nan, math.nan, run="ppo-7", first=59).close()
        request = hook.wait()
    body = verified(request)
    data = body["data"]
    assert (body["type"], data["run"], data["boot"], data["rule"]) == ("alert.firing", "ppo-7", "boot-1", "non_finite")
    (alert,) = data["alerts"]
    assert (alert["metric"], alert["onset_step"], alert["step"], alert["value"]) == ("train/loss", 61, 61, "NaN")
    assert alert["labels"]["role"] == "trainer"
    assert data["remedy"]
    assert len(hook.requests) == 1
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(request.body.decode().replace("61", "62"), dict(request.headers))


def test_a_second_daemon_on_the_same_state_or_endpoint_leaves_and_the_first_goes_on(
    daemon: DaemonProcess, short_dir: Path
) -> None:
    for name in ("other", "third"):
        (short_dir / name).mkdir()
    same_state = DaemonProcess(short_dir / "other")
    same_state.config.write_text(same_state.config.read_text().replace(str(same_state.state), str(daemon.state)))
    code, said = refused(same_state)
    assert code == 75
    assert "Traceback" not in said
    assert f"already in use by process {daemon.status()['pid']}" in said
    same_endpoint = DaemonProcess(short_dir / "third")
    same_endpoint.config.write_text(same_endpoint.config.read_text().replace(same_endpoint.endpoint, daemon.endpoint))
    code, said = refused(same_endpoint)
    assert code == 73
    assert "another rlhfd daemon listens here" in said
    assert "Traceback" not in said
    emitted(daemon.endpoint, 1.0, 2.0).close()
    wait_for(lambda: len(daemon.frames()) == 3)


def test_sigterm_ends_it_cleanly_within_seconds_and_the_next_start_has_everything(short_dir: Path) -> None:
    daemon = DaemonProcess(short_dir).start()
    emitter = emitted(daemon.endpoint, *[1.0] * 50, math.nan)
    wait_for(lambda: len(daemon.frames()) == 51)
    wait_for(lambda: daemon.status()["alerts"])
    before = daemon.status()
    assert daemon.stop() == 0
    assert not daemon.socket.exists()
    assert not daemon.control.exists()
    daemon.start()
    after = daemon.status()
    assert after["alerts"] == before["alerts"]
    assert (after["runs"][0]["run"], after["runs"][0]["step"]) == ("ppo", 51)
    assert daemon.streams()[emitter.stream]["frames"] == 51
    emitter.emit(52, {"train/loss": 1.0})
    wait_for(lambda: len(daemon.frames()) == 52)  # it has found the new daemon: its goodbye waits 2 s only
    emitter.close()
    wait_for(lambda: len(daemon.frames()) == 53)
    assert [frame.seq for frame in daemon.frames()] == list(range(1, 54))
    assert daemon.stop() == 0


def test_sigterm_ends_it_although_a_webhook_hangs(short_dir: Path, make_hook: Callable[..., Hook]) -> None:
    hook = make_hook(Reply(hang=True))
    daemon = DaemonProcess(short_dir, hook.target() + "timeout_seconds = 60\n", SECRET_ENV).start()
    emitted(daemon.endpoint, math.nan).close()
    hook.wait()
    assert daemon.stop() == 0


def test_an_alert_under_way_at_kill_9_arrives_after_the_restart_with_the_same_id(
    short_dir: Path, make_hook: Callable[..., Hook]
) -> None:
    hook = make_hook(Reply(hang=True))
    daemon = DaemonProcess(short_dir, hook.target(), SECRET_ENV).start()
    emitter = emitted(daemon.endpoint, 1.0, math.nan)
    first = hook.wait()
    daemon.kill()
    daemon.start()
    second = hook.wait(2)
    assert second.headers["webhook-id"] == first.headers["webhook-id"]
    assert second.body == first.body
    verified(second)
    wait_for(lambda: daemon.status()["targets"]["ops"].get("delivered") == 1)
    emitter.emit(3, {"train/loss": 1.0})
    wait_for(lambda: len(daemon.frames()) == 3)  # it has found the new daemon: its goodbye waits 2 s only
    emitter.close()
    wait_for(lambda: len(daemon.frames()) == 4)
    assert len(hook.requests) == 2
    daemon.stop()


def test_an_episode_goes_on_after_kill_9_and_is_told_twice_in_all(
    short_dir: Path, make_hook: Callable[..., Hook]
) -> None:
    hook = make_hook()
    daemon = DaemonProcess(short_dir, hook.target(), SECRET_ENV).start()
    emitter = Emitter("ppo", role="trainer", boot="boot-1", endpoint=daemon.endpoint)
    emitter.emit(61, {"train/loss": math.nan})
    opened = verified(hook.wait())["data"]
    wait_for(lambda: daemon.status()["targets"]["ops"].get("delivered") == 1)  # else it would be sent once more
    daemon.kill()
    daemon.start()
    emitter.emit(65, {"train/loss": math.nan, "train/kl": math.nan})
    wait_for(lambda: len(daemon.status()["alerts"]) == 2)
    (episode,) = daemon.status()["episodes"]
    assert (episode["id"], episode["metric"], episode["onset_step"]) == (opened["episode"]["id"], "train/loss", 61)
    assert (episode["metrics"], episode["firing"]) == (["train/loss", "train/kl"], 2)
    assert {alert["episode"] for alert in daemon.status()["alerts"]} == {episode["id"]}
    daemon.kill()
    daemon.start()
    for step in range(66, 72):
        emitter.emit(step, {"train/loss": 1.0, "train/kl": 0.1})
    over = verified(hook.wait(2))["data"]
    assert (over["state"], over["rule"], over["episode"]["id"]) == ("resolved", "non_finite", episode["id"])
    assert [(one["metric"], one["onset_step"], one["ended_step"]) for one in over["episode"]["members"]] == [
        ("train/loss", 61, 70), ("train/kl", 65, 70),
    ]  # fmt: skip
    wait_for(lambda: not daemon.status()["episodes"])
    emitter.close()
    assert len(hook.requests) == 2
    daemon.stop()


def test_frames_sent_while_it_is_killed_again_and_again_are_all_recorded_once(short_dir: Path) -> None:
    daemon = DaemonProcess(short_dir).start()
    emitter = Emitter("ppo", endpoint=daemon.endpoint)
    for round_ in range(3):
        for step in range(300):
            emitter.emit(round_ * 300 + step, {"a": 1.0})
        wait_for(lambda: len(daemon.frames()) > round_ * 300)  # noqa: B023 - called before the next round
        daemon.kill()
        daemon.start()
    wait_for(lambda: len(daemon.frames()) >= 900, 60)
    emitter.close()
    assert [frame.seq for frame in daemon.frames()][:900] == list(range(1, 901))
    assert emitter.drops == {}
    daemon.stop()


def test_sighup_changes_the_target_and_a_bad_file_changes_nothing_and_shows(
    short_dir: Path, make_hook: Callable[..., Hook]
) -> None:
    old, new = make_hook(), make_hook()
    with running_daemon(short_dir, old.target(), SECRET_ENV) as daemon:
        base = daemon.config.read_text()
        emitted(daemon.endpoint, math.nan, run="one").close()
        old.wait()
        daemon.config.write_text(base.replace(old.target(), "[targets.ops]\nurll = 5\n"))
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: "urll" in (daemon.status()["reload_error"] or ""))
        emitted(daemon.endpoint, math.nan, run="two").close()
        old.wait(2)
        daemon.config.write_text(base.replace(old.target(), new.target("other")))
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: next(iter(daemon.status()["targets"])) == "other")
        assert daemon.status()["reload_error"] is None
        emitted(daemon.endpoint, math.nan, run="three").close()
        wait_for(lambda: len(new.requests) >= 3)
        told = [verified(request)["data"]["run"] for request in new.requests]
        assert sorted(told) == ["one", "three", "two"], "a new target learns what fires already"
        assert len(old.requests) == 2


def test_a_reload_whose_secret_is_missing_keeps_the_old_target(short_dir: Path, make_hook: Callable[..., Hook]) -> None:
    hook = make_hook()
    with running_daemon(short_dir, hook.target(), SECRET_ENV) as daemon:
        daemon.config.write_text(daemon.config.read_text().replace("HOOK_SECRET", "NOT_THERE"))
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: "NOT_THERE" in (daemon.status()["reload_error"] or ""))
        emitted(daemon.endpoint, math.nan).close()
        verified(hook.wait())


def test_systemd_is_told_ready_alive_reloading_and_stopping(short_dir: Path) -> None:
    address = short_dir / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(15)
        daemon = DaemonProcess(short_dir, environ={"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "30000000"}).start()

        def until(expected: str) -> str:
            while not (text := systemd.recv(4096).decode()).startswith(expected):
                pass
            return text

        assert str(daemon.socket) in until("READY=1")
        until("WATCHDOG=1")
        daemon.signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in until("RELOADING=1")
        until("READY=1")
        assert daemon.stop() == 0
        until("STOPPING=1")


def test_a_log_cut_short_by_a_crash_is_repaired_at_the_start(short_dir: Path) -> None:
    daemon = DaemonProcess(short_dir).start()
    emitted(daemon.endpoint, 1.0, 2.0, 3.0).close()
    wait_for(lambda: len(daemon.frames()) == 4)
    daemon.kill()
    (segment,) = (daemon.state / "frames").glob("*.log")
    os.truncate(segment, segment.stat().st_size - 5)
    assert verify(daemon.state / "frames").torn_tail_bytes > 0
    daemon.start()
    emitted(daemon.endpoint, 4.0, role="late").close()
    wait_for(lambda: len(daemon.frames()) == 5)
    report = verify(daemon.state / "frames")
    assert (report.ok, report.torn_tail_bytes) == (True, 0)
    assert daemon.stop() == 0


def test_a_file_that_is_no_segment_does_not_stop_the_start(short_dir: Path) -> None:
    daemon = DaemonProcess(short_dir)
    frames = daemon.state / "frames"
    frames.mkdir(parents=True)
    (frames / "frames-0000000000000001.log").write_bytes(b"something else entirely" * 100)
    daemon.start()
    assert daemon.status()["framelog"]["quarantined_total"] == 1
    assert daemon.stop() == 0


def test_two_runs_at_once_are_kept_apart(short_dir: Path, make_hook: Callable[..., Hook]) -> None:
    hook = make_hook()
    with running_daemon(short_dir, hook.target(), SECRET_ENV) as daemon:
        good, bad = emitted(daemon.endpoint, 1.0, run="good"), emitted(daemon.endpoint, math.nan, run="bad")
        hook.wait()
        for step in range(2, 30):
            good.emit(step, {"train/loss": 1.0})
            bad.emit(step, {"train/loss": math.nan})
        wait_for(lambda: len(daemon.frames()) == 58)
        status = daemon.status()
        assert {(run["run"], run["step"], len(run["streams"])) for run in status["runs"]} == {
            ("good", 29, 1), ("bad", 29, 1),
        }  # fmt: skip
        assert [alert["run"] for alert in status["alerts"]] == ["bad"]
        assert [verified(request)["data"]["run"] for request in hook.requests] == ["bad"]
        good.close()
        bad.close()


def test_a_process_that_is_killed_is_noticed_and_recorded(daemon: DaemonProcess) -> None:
    program = (
        f"import time\nfrom rlhfd_emitter import Emitter\ne = Emitter('ppo', endpoint={daemon.endpoint!r})\n"
        "e.emit(1, {'a': 1.0})\ntime.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program])
    wait_for(lambda: any(stream["frames"] for stream in daemon.streams().values()))
    child.kill()
    child.wait(10)
    wait_for(lambda: [stream["ended"] for stream in daemon.streams().values()] == ["exited_without_bye"])
    assert not daemon.status()["runs"][0]["live"]
    assert [frame.event for frame in daemon.frames()] == [None, "stream_end"]
    daemon.kill()
    daemon.start()
    assert not daemon.status()["runs"][0]["live"], "nor is it alive after a restart"


@pytest.mark.parametrize("where", ["/proc/rlhfd", "{file}/state", "/dev/null"])
def test_a_state_directory_that_cannot_be_is_one_clear_line(where: str, short_dir: Path) -> None:
    daemon = DaemonProcess(short_dir)
    state = where.format(file=daemon.config)
    daemon.config.write_text(daemon.config.read_text().replace(str(daemon.state), state))
    code, said = refused(daemon)
    assert code == 73
    lines = [line for line in said.splitlines() if "stopped" not in line]
    assert len(lines) == 1, said
    assert f"rlhfd: {state}: cannot be used as state directory" in lines[0]
    assert not daemon.socket.exists()


def test_the_log_is_one_json_object_a_line(daemon: DaemonProcess) -> None:
    emitted(daemon.endpoint, math.nan).close()
    wait_for(lambda: daemon.status()["alerts"])
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    assert {"ready", "alert firing"} <= {line["event"] for line in lines}
