"""A stopped vLLM engine core and a killed actor in one real PPO run: both are named in time, with role and pid."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from openrlhf.conftest import Hook, daemon_with_hook, wait_for_step
from openrlhf.lab import Lab
from openrlhf.runs import rows, start_ppo, under_rlhfd
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.process_state import states
from support import DaemonProcess, wait_for

STOPPED_SECONDS, DEATH_SECONDS = 20.0, 5.0


@dataclass(frozen=True)
class Outcome:
    """What was done to the run and what was recorded and told of it; times in Unix seconds."""

    engine_pid: int
    rollout_pid: int
    critic_pid: int
    killed_at: float
    stalled_after: float
    frames: list[Frame]
    received: dict[str, float]
    rules: list[tuple[str, str]]


def event(daemon: DaemonProcess, name: str) -> Frame | None:
    return next((frame for frame in daemon.frames() if frame.event == name), None)


def pid_of(daemon: DaemonProcess, role: str) -> int:
    (pid,) = {stream["pid"] for stream in daemon.streams().values() if stream["role"] == role}
    return int(pid)


def engine_core(rollout: int) -> int:
    """The process in which vLLM computes: of the rollout actor's descendants the one that has used most CPU time."""

    def ticks(pid: int) -> int:
        used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(used[11]) + int(used[12])

    return max((one.pid for one in states(rollout) if one.pid != rollout), key=ticks)


@pytest.fixture(scope="module")
def outcome(lab: Lab, ray: str, folder: Path) -> Outcome:
    trace = folder / "trace.jsonl"
    with Hook() as hook:
        daemon = daemon_with_hook(folder, hook).start()
        prefix = under_rlhfd(lab, "stalls", daemon.endpoint)
        try:
            with start_ppo(
                lab, ray, "stalls", steps=400, log=folder / "ppo.log", trace=trace, prefix=prefix
            ) as process:
                wait_for_step(trace, 6, 400, lambda: process.returncode is None)
                rollout, critic = pid_of(daemon, "RolloutRayActor"), pid_of(daemon, "CriticModelActor")
                engine = engine_core(rollout)
                os.kill(engine, signal.SIGSTOP)
                stopped_at = time.time()
                try:
                    wait_for(lambda: event(daemon, "phase_stalled"), STOPPED_SECONDS)
                    stalled_after = time.time() - stopped_at
                finally:
                    os.kill(engine, signal.SIGCONT)
                wait_for(lambda: event(daemon, "phase_resumed"), 60)
                wait_for_step(trace, rows(trace)[-1]["step"] + 2, 60, lambda: process.returncode is None)
                os.kill(critic, signal.SIGKILL)
                killed_at = time.time()
                wait_for(lambda: event(daemon, "actor_death"), 30)
                wait_for(lambda: any(body["data"]["rule"] == "actor_death" for _, body in hook.calls), 30)
        finally:
            daemon.stop()
    frames = daemon.frames()
    received = {str(frame.event): frame.time_ns / 1e9 for frame in frames if frame.role == "rlhfd"}
    rules = [(body["data"]["rule"], body["data"]["state"]) for _, body in hook.calls]
    return Outcome(engine, rollout, critic, killed_at, stalled_after, frames, received, rules)


def test_a_stopped_engine_core_is_a_stalled_generation_with_its_pid(outcome: Outcome) -> None:
    stalled = [frame.fields for frame in outcome.frames if frame.event == "phase_stalled"]
    fields = next(one for one in stalled if one["phase"] == "generation")  # others may have waited for it, too
    assert (fields["phase"], fields["role"], fields["pid"]) == ("generation", "RolloutRayActor", outcome.rollout_pid)
    assert fields["suspect_pids"] == [outcome.engine_pid]
    assert fields["suspects"][0]["state"] == "T"
    assert fields["host"]
    assert outcome.stalled_after < STOPPED_SECONDS


def test_the_stall_is_alerted_and_resolved(outcome: Outcome) -> None:
    assert ("stalled_phase", "firing") in outcome.rules
    assert ("stalled_phase", "resolved") in outcome.rules


def test_a_killed_actor_is_named_with_role_and_rank_within_five_seconds(outcome: Outcome) -> None:
    death = next(frame for frame in outcome.frames if frame.event == "actor_death")
    assert (death.fields["role"], death.fields["rank"], death.fields["pid"]) == (
        "CriticModelActor", 0, outcome.critic_pid,
    )  # fmt: skip
    assert death.time_ns / 1e9 - outcome.killed_at < DEATH_SECONDS
    assert ("actor_death", "firing") in outcome.rules
