"""A healthy PPO run under observation, through whose middle the daemon is killed and started again."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openrlhf.conftest import rows, under_rlhfd, wait_for_step
from openrlhf.lab import Lab
from openrlhf.runs import start_ppo
from rlhfd_daemon.frame import Frame
from support import DaemonProcess

STEPS, KILLED_AT, DOWN_SECONDS = 36, 12, 5.0
ROLES = {"PPOTrainer", "PolicyModelActor", "CriticModelActor", "ReferenceModelActor", "RolloutRayActor"}
PHASES = {
    "PPOTrainer": {"generation", "make_experience", "ppo_train", "broadcast"},
    "PolicyModelActor": {"forward", "append", "ppo_train", "broadcast", "save_model"},
    "CriticModelActor": {"forward", "append", "ppo_train"},
    "ReferenceModelActor": {"forward"},
    "RolloutRayActor": {"generation"},
}


@dataclass(frozen=True)
class Outcome:
    """What is left of the run."""

    exit_code: int
    frames: list[Frame]
    logged: list[dict[str, Any]]
    streams: dict[str, dict[str, Any]]
    frame_log: Path


@pytest.fixture(scope="module")
def outcome(lab: Lab, ray: str, folder: Path) -> Outcome:
    daemon = DaemonProcess(folder).start()
    trace = folder / "trace.jsonl"
    prefix = under_rlhfd(lab, "healthy", daemon.endpoint)
    try:
        with start_ppo(lab, ray, "healthy", steps=STEPS, log=folder / "ppo.log", trace=trace, prefix=prefix) as process:
            wait_for_step(trace, KILLED_AT, 400, lambda: process.returncode is None)
            daemon.kill()
            time.sleep(DOWN_SECONDS)  # the outage is the subject
            daemon.start()
            exit_code = process.wait(400)
            assert exit_code == 0, process.tail()
        streams = daemon.streams()
    finally:
        daemon.stop()
    return Outcome(exit_code, daemon.frames(), rows(trace), streams, daemon.state / "frames")


def test_the_run_ends_as_without_rlhfd(outcome: Outcome) -> None:
    assert outcome.exit_code == 0
    assert [row["step"] for row in outcome.logged] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("role", sorted(ROLES))
def test_every_role_reports_its_start_its_phases_and_its_stop(outcome: Outcome, role: str) -> None:
    frames = [frame for frame in outcome.frames if frame.role == role]
    events = [frame.event for frame in frames if frame.kind == "event"]
    assert events[0] == "process_start"
    assert events[-1] == "process_stop"
    begun = {frame.fields["phase"] for frame in frames if frame.event == "phase_begin"}
    ended = {frame.fields["phase"] for frame in frames if frame.event == "phase_end"}
    assert begun == ended == PHASES[role]
    assert {frame.run for frame in frames} == {"healthy"}
    assert len({frame.boot for frame in frames}) == 1


def test_every_metric_that_openrlhf_logged_arrives_with_the_same_value(outcome: Outcome) -> None:
    arrived = {frame.step: frame.metrics for frame in outcome.frames if frame.kind == "metrics"}
    compared = 0
    for row in outcome.logged:
        for key, value in row.items():
            if key.startswith("train/"):
                got = arrived[row["step"]][key]
                assert got == value or (math.isnan(got) and math.isnan(value)), (row["step"], key)
                compared += 1
    assert compared >= STEPS * 30


def test_the_metadata_names_the_trainer_the_arguments_and_the_versions(outcome: Outcome) -> None:
    (start,) = [frame for frame in outcome.frames if frame.event == "run_start"]
    assert start.role == start.fields["trainer"] == "PPOTrainer"
    assert start.fields["args"]["algo.advantage.estimator"] == "gae"
    assert start.fields["args"]["actor.adam.lr"] == 3e-4
    assert start.fields["versions"]["openrlhf"] == "0.11.2"


def test_all_hooks_of_this_version_are_bound(outcome: Outcome) -> None:
    for frame in outcome.frames:
        if frame.event == "attached":
            assert frame.fields["bound"]
            assert frame.fields["missing"] == []


def test_no_frame_is_missing_although_the_daemon_was_killed(outcome: Outcome) -> None:
    assert {stream["role"] for stream in outcome.streams.values()} >= ROLES
    for stream_id, stream in outcome.streams.items():
        seqs = [frame.seq for frame in outcome.frames if frame.stream == stream_id]
        assert seqs == list(range(1, seqs[-1] + 1)), stream["role"]
        assert stream["drops"] == {}


def test_the_recording_replays_twice_to_the_same_bytes(outcome: Outcome) -> None:
    command = [sys.executable, "-m", "rlhfd_daemon", "replay", str(outcome.frame_log)]
    first, second = (subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second
