"""Actions of a real daemon: on real processes, told in the messages of the episode, once, and only where allowed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from acting import Training, program
from rlhfd_alerts.testing import SECRET
from services import Server
from support import DaemonProcess, running_daemon, wait_for

STEPS, BAD = 200, 5
SIGNALLED = """
import math, pathlib, signal, sys, time
from rlhfd_emitter import Emitter
seen = pathlib.Path(sys.argv[2])
def note(number, frame):
    with seen.open("a") as file:
        file.write(signal.Signals(number).name + "\\n")
signal.signal(signal.SIGUSR1, note)
emitter = Emitter("ppo", role=sys.argv[3], rank=0, boot="boot-1", endpoint=sys.argv[1])
for step in range(1, 2000):
    emitter.emit(step, {"train/loss": math.nan if step > 3 else 1.0})
    time.sleep(0.05)
"""


def daemon_with(directory: Path, hook: Server, *actions: str) -> DaemonProcess:
    sections = "".join(f"[[actions]]\n{action}\n" for action in actions)
    target = hook.target("hook", "webhook", 'secret_env = "HOOK_SECRET"')
    return DaemonProcess(directory, f"{target}{sections}", {"HOOK_SECRET": SECRET})


def told(hook: Server) -> list[dict[str, Any]]:
    return [body["data"] for body in hook.bodies()]


def noted(daemon: DaemonProcess) -> list[tuple[str, str]]:
    """The events that the daemon has recorded of actions, with their texts."""
    frames = [frame for frame in daemon.frames() if frame.role == "rlhfd" and str(frame.event).startswith("action_")]
    return [(str(frame.event), str(frame.fields["text"])) for frame in frames]


def test_a_stop_ends_the_run_within_one_step_with_its_checkpoint_saved_and_is_told(
    short_dir: Path, serve: Callable[..., Server], tmp_path: Path
) -> None:
    hook = serve()
    daemon = daemon_with(short_dir, hook, 'type = "stop"').start()
    with Training(tmp_path, daemon.endpoint, program(STEPS, BAD), allow="stop") as training:
        last, save_steps = training.wait()
    assert BAD <= last < 2 * STEPS
    assert training.saved() == [f"global_step{last}"]
    assert save_steps == "inf"
    wait_for(lambda: len(told(hook)) >= 3)
    opened, requested, taken = told(hook)[:3]
    assert {one["episode"]["id"] for one in (opened, requested, taken)} == {opened["episode"]["id"]}
    assert opened["rule"] == "non_finite"
    assert "PPOTrainer (pid " in requested["summary"]
    assert "asked for a stop" in requested["summary"]
    assert f"checkpoint global_step{last} is saved in {training.checkpoints}" in taken["summary"]
    assert {one["severity"] for one in (opened, requested, taken)} == {"critical"}
    accepted = next(one for one in daemon.frames() if one.fields.get("state") == "accepted")
    logged = [one for one in daemon.frames() if one.role == "PPOTrainer" and one.kind == "metrics"]
    assert len({one.step for one in logged if one.time_ns > accepted.time_ns and "train/kl" in one.metrics}) <= 1
    assert [event for event, _ in noted(daemon)] == ["action_requested", "action_taken"]
    daemon.stop()
    command = [sys.executable, "-m", "rlhfd_daemon", "replay", str(daemon.state / "frames")]
    replayed = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
    assert [json.loads(line)["data"] for line in replayed] == told(hook)


def test_a_checkpoint_is_saved_once_and_the_run_goes_on(
    short_dir: Path, serve: Callable[..., Server], tmp_path: Path
) -> None:
    hook = serve()
    daemon = daemon_with(short_dir, hook, 'type = "checkpoint"').start()
    with Training(tmp_path, daemon.endpoint, program(15, BAD), allow="checkpoint,stop") as training:
        assert training.wait() == (30, "inf")
    wait_for(lambda: len(noted(daemon)) == 2)
    assert len(training.saved()) == 1
    assert training.saved()[0] in noted(daemon)[1][1]
    daemon.stop()


def test_a_dry_run_says_what_it_would_do_and_does_nothing(
    short_dir: Path, serve: Callable[..., Server], tmp_path: Path
) -> None:
    hook, sentinel = serve(), tmp_path / "sentinel"
    dry = [
        'type = "stop"\ndry_run = true',
        f'type = "sentinel"\npath = "{sentinel}"\ndry_run = true',
        'type = "signal"\nsignal = "SIGKILL"\nrole = "PPOTrainer"\ndry_run = true',
    ]
    daemon = daemon_with(short_dir, hook, *dry).start()
    with Training(tmp_path, daemon.endpoint, program(15, BAD), allow="stop") as training:
        assert training.wait() == (30, "inf")
    assert training.saved() == []
    assert not sentinel.exists()
    texts = [one["summary"] for one in wait_for(lambda: told(hook)[1:])]
    assert "dry run: would have asked PPOTrainer for a stop; nothing was done" in texts[0]
    assert [event for event, _ in noted(daemon)] == ["action_dry_run"] * 3
    assert {text for _, text in noted(daemon)} == {
        "would have asked PPOTrainer for a stop; nothing was done",
        f"would have written {sentinel}; nothing was done",
        "would have sent SIGKILL to PPOTrainer; nothing was done",
    }
    daemon.stop()


def test_a_run_that_does_not_allow_it_goes_on_and_that_is_told(
    short_dir: Path, serve: Callable[..., Server], tmp_path: Path
) -> None:
    hook = serve()
    daemon = daemon_with(short_dir, hook, 'type = "stop"').start()
    with Training(tmp_path, daemon.endpoint, program(15, BAD), allow="checkpoint") as training:
        assert training.wait() == (30, "inf")
    assert training.saved() == []
    refused = wait_for(lambda: told(hook)[1:])[0]
    assert "action stop was not carried out: the run was not started with rlhfd run --allow stop" in refused["summary"]
    daemon.stop()


def test_without_actions_in_the_configuration_nothing_is_asked_of_a_run_that_would_allow_it(
    short_dir: Path, tmp_path: Path
) -> None:
    with running_daemon(short_dir) as daemon:
        with Training(tmp_path, daemon.endpoint, program(10, BAD), allow="checkpoint,stop") as training:
            assert training.wait() == (20, "inf")
        assert noted(daemon) == []
        assert not [one for one in daemon.frames() if one.event == "action_answer"]


def test_a_signal_and_a_sentinel_come_once_also_over_kill_9_of_the_daemon(
    short_dir: Path, serve: Callable[..., Server], tmp_path: Path
) -> None:
    hook, seen = serve(), tmp_path / "seen"
    signal_, sentinel = 'type = "signal"\nsignal = "SIGUSR1"\nrole = "PPOTrainer"', f"{tmp_path}/{{run}}.json"
    daemon = daemon_with(short_dir, hook, signal_, f'type = "sentinel"\npath = "{sentinel}"').start()
    command = [sys.executable, "-c", SIGNALLED, daemon.endpoint, str(seen), "PPOTrainer"]
    with subprocess.Popen(command) as process:
        try:
            wait_for(lambda: seen.exists() and len(noted(daemon)) == 2)
            written = tmp_path / "ppo.json"
            said = json.loads(written.read_text())
            assert (said["run"], said["rule"], said["name"]) == ("ppo", "non_finite", "sentinel")
            assert said["episode"] == told(hook)[0]["episode"]["id"]
            assert f"SIGUSR1 is sent to PPOTrainer rank 0 (pid {process.pid})" in dict(noted(daemon)).values() or any(
                str(process.pid) in text for _, text in noted(daemon)
            )
            written.unlink()
            frames = len(daemon.frames())
            daemon.kill()
            daemon.start()
            wait_for(lambda: len(daemon.frames()) > frames + 40)
            assert seen.read_text() == "SIGUSR1\n"
            assert not written.exists()
            assert len(noted(daemon)) == 2
        finally:
            process.kill()
    daemon.stop()
