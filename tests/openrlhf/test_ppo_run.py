"""A healthy PPO run under observation, through whose middle the daemon is killed and started again."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from openrlhf.conftest import STEPS, PpoRun

ROLES = {"PPOTrainer", "PolicyModelActor", "CriticModelActor", "ReferenceModelActor", "RolloutRayActor"}
PHASES = {
    "PPOTrainer": {"generation", "make_experience", "ppo_train", "broadcast"},
    "PolicyModelActor": {"forward", "append", "ppo_train", "broadcast", "save_model"},
    "CriticModelActor": {"forward", "append", "ppo_train"},
    "ReferenceModelActor": {"forward"},
    "RolloutRayActor": {"generation", "reward", "weight_sync"},
}


def test_the_run_ends_as_without_rlhfd(ppo_run: PpoRun) -> None:
    assert ppo_run.exit_code == 0
    assert [row["step"] for row in ppo_run.logged] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("role", sorted(ROLES))
def test_every_role_reports_its_start_its_phases_and_its_stop(ppo_run: PpoRun, role: str) -> None:
    frames = [frame for frame in ppo_run.frames if frame.role == role]
    events = [frame.event for frame in frames if frame.kind == "event"]
    assert events[0] == "process_start"
    assert events[-1] == "process_stop"
    begun = {frame.fields["phase"] for frame in frames if frame.event == "phase_begin"}
    ended = {frame.fields["phase"] for frame in frames if frame.event == "phase_end"}
    assert begun == ended == PHASES[role]
    assert {frame.run for frame in frames} == {"healthy"}
    assert len({frame.boot for frame in frames}) == 1


def test_every_metric_that_openrlhf_logged_arrives_with_the_same_value(ppo_run: PpoRun) -> None:
    arrived = {frame.step: frame.metrics for frame in ppo_run.frames if "train/policy_loss" in frame.metrics}
    compared = 0
    for row in ppo_run.logged:
        for key, value in row.items():
            if key.startswith("train/"):
                got = arrived[row["step"]][key]
                assert got == value or (math.isnan(got) and math.isnan(value)), (row["step"], key)
                compared += 1
    assert compared >= STEPS * 30


def test_the_metadata_names_the_trainer_the_arguments_and_the_versions(ppo_run: PpoRun) -> None:
    (start,) = [frame for frame in ppo_run.frames if frame.event == "run_start"]
    assert start.role == start.fields["trainer"] == "PPOTrainer"
    assert start.fields["args"]["algo.advantage.estimator"] == "gae"
    assert start.fields["args"]["actor.adam.lr"] == 3e-4
    assert start.fields["versions"]["openrlhf"] == "0.11.2"


def test_all_hooks_of_this_version_are_bound(ppo_run: PpoRun) -> None:
    for frame in ppo_run.frames:
        if frame.event == "attached":
            assert frame.fields["bound"]
            assert frame.fields["missing"] == []


def test_no_frame_is_missing_although_the_daemon_was_killed(ppo_run: PpoRun) -> None:
    assert {stream["role"] for stream in ppo_run.streams.values()} >= ROLES
    for stream_id, stream in ppo_run.streams.items():
        seqs = [frame.seq for frame in ppo_run.frames if frame.stream == stream_id]
        assert seqs == list(range(1, seqs[-1] + 1)), stream["role"]
        assert stream["drops"] == {}


def test_the_recording_replays_twice_to_the_same_bytes(ppo_run: PpoRun) -> None:
    command = [sys.executable, "-m", "rlhfd_daemon", "replay", str(ppo_run.frame_log)]
    first, second = (subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second
