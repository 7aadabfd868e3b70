"""What is due is carried out once, after it was stored; a crash at any point repeats nothing and hides nothing."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhfd_alerts.groups import Dispatcher
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.outbox import Outbox
from rlhfd_daemon.actions import requests, sentinel, signals
from rlhfd_daemon.actions.act import ActionError
from rlhfd_daemon.actions.actor import Actions
from rlhfd_daemon.alerting import Alerting
from rlhfd_daemon.analyzers import build
from rlhfd_daemon.config import AnalyzersConfig
from rlhfd_daemon.config_actions import AnyAction, CheckpointAction, SentinelAction, SignalAction, StopAction
from rlhfd_daemon.frame import decode
from rlhfd_daemon.framelog import FrameLog
from rlhfd_daemon.ingest import Received
from rlhfd_daemon.observation import Observation
from rlhfd_daemon.pipeline import Pipeline
from rlhfd_daemon.recorder import Recorder
from rlhfd_daemon.recording import tail
from rlhfd_daemon.runs import Peer, Runs
from wire import packed

NOW = 1_700_000_000.0
SIGNAL = SignalAction(signal="SIGUSR1", role="PPOTrainer")


class Daemon:
    """The parts that actions touch, on real files; another one on the same folder is a restart."""

    def __init__(self, folder: Path, *actions: AnyAction, pid: int = 42, now: float = NOW) -> None:
        self.outbox = Outbox.open(folder / "alerts.sqlite3")
        self.log = FrameLog(folder / "frames", segment_bytes=1 << 24)
        self.log.open(minimum_next_id=self.outbox.decided_through() + 1)
        self.runs = Runs()
        self.told: list[str] = []
        self.actions = Actions(actions, self.runs, self.told.append)
        self.pipeline = Pipeline(build(AnalyzersConfig()), Lifecycle(), [self.actions])
        self.pipeline.restore(self.outbox.alerts(), self.outbox.rows())
        self.alerting = Alerting(
            self.outbox,
            self.pipeline.lifecycle,
            Dispatcher(None, ("hook",)),
            decided=lambda: None,
            actions=self.actions.decisions,
        )
        self.alerting.restore(now)
        self.recorder = Recorder(self.log, self.runs, self.pipeline, self.alerting)
        self.recorder.catch_up(tail(folder / "frames", 1 << 30))
        self.noted: list[Observation] = []
        self._peer = Peer(os.getuid(), pid)

    def take(self, seq: int, now: float = NOW, **changes: Any) -> None:
        """One frame of the PPO trainer."""
        payload = packed(seq, **{"role": "PPOTrainer", "rank": None, **changes})
        self.recorder.take([Received(decode(payload), payload, self._peer, int(now * 1e9))])

    def fire(self, now: float = NOW) -> None:
        self.take(1, now, metrics={"train/loss": math.nan})

    def answer(self, seq: int, state: str, now: float = NOW, **fields: object) -> None:
        (act,) = self.acts
        what = {"id": act.id, "action": act.type, "state": state, **fields}
        self.take(seq, now, kind="event", event="action_answer", fields=what)

    def check(self, now: float = NOW) -> list[tuple[str, str]]:
        """One turn of the daemon's loop."""
        seen = self.actions.check(now, self.alerting.is_stored)
        self.recorder.note(seen, int(now * 1e9))
        self.noted += seen
        return [(str(one.event), str(one.fields["text"])) for one in seen]

    @property
    def acts(self) -> list[Any]:
        return list(self.actions.decisions.acts.values())

    def messages(self) -> list[bytes]:
        with self.outbox.reading() as db:
            return [bytes(body) for (body,) in db.execute("SELECT body FROM outbox ORDER BY rowid")]

    def crash(self) -> None:
        self.log.close()
        self.outbox.close()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    made: list[Daemon] = []

    def start(*actions: AnyAction, **options: Any) -> Daemon:
        if made:
            made[-1].crash()
        made.append(Daemon(tmp_path, *actions, **options))
        return made[-1]

    yield start
    made[-1].crash()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pids that were signalled; no real process is needed to see how often."""
    pids: list[int] = []
    monkeypatch.setattr(signals, "send", lambda stream, number: pids.append(stream.peer.pid))
    return pids


def test_a_signal_is_sent_once_and_said(started: Callable[..., Daemon], sent: list[int]) -> None:
    daemon = started(SIGNAL)
    daemon.fire()
    assert daemon.check() == [("action_taken", "SIGUSR1 is sent to PPOTrainer (pid 42)")]
    assert daemon.check() == []
    assert sent == [42]
    assert [b"SIGUSR1 is sent" in body for body in daemon.messages()] == [False, True]
    assert daemon.actions.status() == {
        "action_taken_total": 1, "action_failed_total": 0, "action_dry_run_total": 0, "open": [],
    }  # fmt: skip


def test_a_restart_after_it_was_sent_sends_nothing_and_says_nothing(
    started: Callable[..., Daemon], sent: list[int]
) -> None:
    daemon = started(SIGNAL)
    daemon.fire()
    daemon.check()
    again = started(SIGNAL)
    assert again.check() == []
    again.take(2, metrics={"train/loss": math.nan})
    assert again.check() == []
    assert sent == [42]


def test_a_crash_between_the_record_of_the_outcome_and_the_row_repeats_nothing(
    started: Callable[..., Daemon], sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = started(SIGNAL)
    daemon.fire()
    monkeypatch.setattr(daemon.outbox, "tell", _full_disk)
    daemon.check()
    again = started(SIGNAL)
    assert [act.state for act in again.acts] == ["decided"], "the row was not stored"
    assert again.check() == []
    assert [act.state for act in again.acts] == ["over"]
    assert sent == [42]


def test_a_crash_before_it_is_known_whether_it_was_sent_is_said_and_it_is_not_sent_again(
    started: Callable[..., Daemon], sent: list[int]
) -> None:
    started(SIGNAL).fire()
    again = started(SIGNAL)
    assert again.check() == [("action_failed", "the daemon ended before it was known; it is not done again")]
    assert sent == []


def test_a_crash_before_anything_was_decided_decides_and_does_it_once(
    started: Callable[..., Daemon], sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = started(SIGNAL)
    monkeypatch.setattr(daemon.outbox, "tell", _full_disk)
    daemon.fire()
    assert daemon.check() == [], "nothing is begun that is not stored"
    again = started(SIGNAL)
    assert [event for event, _ in again.check(NOW + 5)] == ["action_taken"]
    assert sent == [42]


def test_what_is_decided_long_after_its_record_is_not_done_and_that_is_said(
    started: Callable[..., Daemon], sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = started(SIGNAL)
    monkeypatch.setattr(daemon.outbox, "tell", _full_disk)
    daemon.fire()
    again = started(SIGNAL)
    assert again.check(NOW + 61) == [
        ("action_failed", "the daemon came to it only 61 s after the alert, which is too late")
    ]
    assert sent == []


def test_a_role_that_the_run_does_not_have_is_named(started: Callable[..., Daemon], sent: list[int]) -> None:
    daemon = started(SignalAction(signal="SIGUSR1", role="CriticModelActor", rank=3))
    daemon.fire()
    assert daemon.check() == [("action_failed", "the run has no process of role CriticModelActor rank 3 now")]


def test_a_refusal_of_the_kernel_is_said(started: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ActionError("PPOTrainer (pid 42): Operation not permitted")

    monkeypatch.setattr(signals, "send", refuse)
    daemon = started(SIGNAL)
    daemon.fire()
    assert daemon.check() == [("action_failed", "PPOTrainer (pid 42): Operation not permitted")]


def test_a_real_process_gets_the_real_signal(started: Callable[..., Daemon]) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        daemon = started(SignalAction(signal="SIGTERM", role="PPOTrainer"), pid=child.pid, now=time.time())
        daemon.fire(time.time())
        assert [event for event, _ in daemon.check(time.time())] == ["action_taken"]
        assert child.wait(10) == -signal.SIGTERM


def until_said(daemon: Daemon, now: float = NOW) -> list[tuple[str, str]]:
    """Turns of the loop until an outcome is known."""

    async def turn() -> list[tuple[str, str]]:
        deadline = time.monotonic() + 20
        while not (said := daemon.check(now)) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return said

    return asyncio.run(turn())


def test_a_sentinel_is_written_in_a_thread_and_again_after_a_crash_that_hid_whether_it_was(
    started: Callable[..., Daemon], tmp_path: Path
) -> None:
    action = SentinelAction(path=f"{tmp_path}/{{run}}.stop")
    started(action).fire()
    again = started(action)
    assert until_said(again) == [("action_taken", f"{tmp_path}/r.stop is written")]
    assert b'"rule":"non_finite"' in (tmp_path / "r.stop").read_bytes()


def test_a_sentinel_that_cannot_be_written_is_said(started: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = started(SentinelAction(path=f"{tmp_path}/missing/stop"))
    daemon.fire()
    assert until_said(daemon) == [("action_failed", f"{tmp_path}/missing: No such file or directory")]


def test_a_file_system_that_hangs_holds_nothing_up(
    started: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel, "write", lambda *_: time.sleep(3600))
    daemon = started(SentinelAction(path="/mnt/dead/stop"))
    daemon.fire()

    async def turns() -> list[tuple[str, str]]:
        assert daemon.check() == []
        await asyncio.sleep(0)
        return daemon.check(NOW + 31)

    assert asyncio.run(turns()) == [("action_failed", "/mnt/dead/stop cannot be written: no answer in 30 s")]


def test_a_stop_is_asked_of_the_trainer_until_it_accepts_and_told_when_it_is_done(
    started: Callable[..., Daemon],
) -> None:
    daemon = started(StopAction())
    daemon.fire()
    assert daemon.check() == []
    (act,) = daemon.acts
    assert daemon.told == ["s1"]
    assert daemon.actions.asked_of("s1") == ({"id": act.id, "action": "stop"},)
    assert daemon.actions.asked_of("s2") == ()
    daemon.answer(2, "accepted")
    asked = "PPOTrainer (pid 42) is asked for a stop and does it at the end of its step"
    assert daemon.check() == [("action_requested", asked)]
    assert daemon.actions.asked_of("s1") == ()
    daemon.answer(3, "done", tag="global_step9", path="/ckpt", step=9)
    text = "checkpoint global_step9 is saved in /ckpt at the end of step 3; the run ends with that step"
    assert daemon.check() == [("action_taken", text)]
    assert daemon.check(NOW + 1e5) == []
    assert daemon.noted[-1].step == 3
    assert [b"asked for a stop" in one or b"global_step9" in one for one in daemon.messages()] == [False, True, True]


@pytest.mark.parametrize("state", ["asked", "accepted"])
def test_a_request_goes_on_over_a_restart(state: str, started: Callable[..., Daemon]) -> None:
    daemon = started(StopAction())
    daemon.fire()
    daemon.check()
    if state == "accepted":
        daemon.answer(2, "accepted")
        daemon.check()
    daemon.recorder.advance()
    again = started(StopAction())
    assert again.check() == []
    assert bool(again.actions.asked_of("s1")) == (state == "asked")
    again.answer(5, "done", tag="global_step9", path="/ckpt")
    assert [event for event, _ in again.check()] == ["action_taken"]


def test_a_request_ends_where_nobody_can_answer_it(started: Callable[..., Daemon]) -> None:
    daemon = started(CheckpointAction())
    daemon.take(1, role="trainer", metrics={"train/loss": math.nan})
    assert daemon.check()[0][1].startswith("there is no process of the run that could: PPOTrainer or TrainingActor")


def test_a_trainer_that_does_not_answer_or_ends_is_not_waited_for(started: Callable[..., Daemon]) -> None:
    daemon = started(CheckpointAction())
    daemon.fire()
    daemon.check()
    assert daemon.check(NOW + 29) == []
    assert "did not answer within 30 s" in daemon.check(NOW + 31)[0][1]
    assert daemon.actions.asked_of("s1") == ()


def test_a_trainer_that_ends_before_the_end_of_its_step_is_not_waited_for(started: Callable[..., Daemon]) -> None:
    daemon = started(CheckpointAction())
    daemon.fire()
    daemon.check()
    daemon.answer(2, "accepted")
    daemon.check()
    assert daemon.check(NOW + 86_400) == [], "a step may take as long as it takes"
    daemon.runs.end("s1", "exited_without_bye")
    assert daemon.check(NOW + 6) == [("action_failed", "the process ended before it could")]


def test_an_emitter_s_refusal_is_told(started: Callable[..., Daemon]) -> None:
    daemon = started(StopAction())
    daemon.fire()
    daemon.check()
    daemon.answer(2, "refused", reason="the run was not started with rlhfd run --allow stop")
    assert daemon.check() == [("action_failed", "the run was not started with rlhfd run --allow stop")]
    assert b"was not carried out: the run was not started" in daemon.messages()[-1]


def test_what_was_turned_off_meanwhile_is_not_done(started: Callable[..., Daemon], sent: list[int]) -> None:
    daemon = started(SIGNAL)
    daemon.fire()
    daemon.actions.decisions.configure(())
    assert daemon.check() == [("action_failed", "it is no longer configured")]
    asking = started(StopAction())
    asking.take(9, run="other", stream="s9", metrics={"train/loss": math.nan})
    asking.check()
    asking.actions.decisions.configure(())
    assert asking.check() == [("action_failed", "it is no longer configured")]
    assert asking.actions.asked_of("s9") == ()
    assert sent == []


def test_answers_to_what_nobody_asked_are_passed_over(started: Callable[..., Daemon]) -> None:
    daemon = started(StopAction())
    for seq, fields in enumerate(({}, {"id": 7, "state": "done"}, {"id": "act_x", "state": ["done"]}), 1):
        daemon.take(seq, kind="event", event="action_answer", fields=fields)
    assert daemon.check() == []


def test_a_dry_run_says_what_would_be_done(started: Callable[..., Daemon], sent: list[int]) -> None:
    daemon = started(SignalAction(signal="SIGKILL", role="PPOTrainer", rank=0, dry_run=True))
    daemon.fire()
    text = "would have sent SIGKILL to PPOTrainer rank 0; nothing was done"
    assert daemon.check() == [("action_dry_run", text)]
    assert sent == []


def test_the_newest_trainer_of_the_launch_is_asked() -> None:
    runs = Runs()
    for stream, seen in (("old", 1.0), ("new", 2.0)):
        runs.admit(decode(packed(1, role="PPOTrainer", stream=stream)), Peer(), seen)
    found = requests.trainer_of(runs.runs["r", "b"])
    assert found is not None
    assert found.stream == "new"


def _full_disk(*_: object) -> None:
    from rlhfd_alerts.errors import OutboxError

    raise OutboxError("disk is full") from sqlite3.OperationalError("disk is full")
