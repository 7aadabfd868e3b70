"""A signal reaches the process that the run has named, and no other that has its number since."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from rlhfd_daemon.actions.act import ActionError
from rlhfd_daemon.actions.signals import send, streams_of
from rlhfd_daemon.runs import Peer, Run, Stream

WAITING = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(7))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def stream(pid: int, last_seen: float | None = None, role: str = "PPOTrainer", rank: int | None = None) -> Stream:
    made = Stream("ppo", "b", role, rank, f"{role}-{rank}-{pid}", pid, Peer(os.getuid(), pid))
    made.last_seen = time.time() if last_seen is None else last_seen
    return made


def test_it_arrives(child: subprocess.Popen[str]) -> None:
    send(stream(child.pid), signal.SIGUSR1)
    assert child.wait(10) == 7


def test_a_process_that_began_after_the_run_s_was_last_heard_is_another_one(child: subprocess.Popen[str]) -> None:
    with pytest.raises(ActionError, match="another process has its number"):
        send(stream(child.pid, last_seen=time.time() - 3600), signal.SIGUSR1)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.3)


def test_one_that_has_ended_is_named_gone(child: subprocess.Popen[str]) -> None:
    held = stream(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie still has its number
    with pytest.raises(ActionError, match="is gone"):
        send(held, signal.SIGUSR1)
    child.wait()
    with pytest.raises(ActionError, match="No such process"):
        send(held, signal.SIGUSR1)


@pytest.mark.parametrize("pid", [-1, 0, 1, pytest.param(os.getpid(), id="own")])
def test_what_no_run_can_be_is_never_signalled(pid: int) -> None:
    with pytest.raises(ActionError, match="not known here"):
        send(stream(pid), signal.SIGCONT)


def test_streams_are_those_of_the_role_and_rank_that_are_there() -> None:
    run = Run("ppo", "b", 0.0, 0.0)
    made = [stream(pid, role=role, rank=rank) for pid, role, rank in (
        (11, "PolicyModelActor", 0), (12, "PolicyModelActor", 1), (13, "CriticModelActor", 0), (14, "rlhfd", None),
    )]  # fmt: skip
    run.streams = {one.stream: one for one in made}
    assert [one.pid for one in streams_of(run, "PolicyModelActor")] == [11, 12]
    assert [one.pid for one in streams_of(run, "PolicyModelActor", 1)] == [12]
    made[1].ended = "process_stop"
    assert streams_of(run, "PolicyModelActor", 1) == streams_of(run, "rlhfd") == streams_of(None, "x") == []
