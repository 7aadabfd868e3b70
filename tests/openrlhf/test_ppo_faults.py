"""Two PPO runs at the same time, each with its own fault in the reward: alerts name the right run, metric and step."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openrlhf.conftest import Hook, daemon_with_hook
from openrlhf.lab import Lab
from openrlhf.runs import ROLLOUT_BATCH, SAMPLES_PER_PROMPT, rows, start_ppo, under_rlhfd
from rlhfd_alerts.canonical import canonical_json
from rlhfd_daemon.frame import Frame
from support import wait_for

STEPS = 40
FAULT_STEP = {"nan": 27, "const": 29}
WITHIN_STEPS = 5
STEP_TOTAL = "train/timing/step_total"


@dataclass(frozen=True)
class Outcome:
    """What is left of both runs."""

    calls: list[tuple[float, dict[str, Any]]]
    frames: list[Frame]
    logged: dict[str, list[dict[str, Any]]]
    frame_log: Path


@pytest.fixture(scope="module")
def outcome(lab: Lab, ray: str, folder: Path) -> Iterator[Outcome]:
    with Hook() as hook:
        daemon = daemon_with_hook(folder, hook).start()
        try:
            processes = {
                fault: start_ppo(
                    lab,
                    ray,
                    fault,
                    steps=STEPS,
                    reward=fault,
                    fault_step=step,
                    log=folder / f"{fault}.log",
                    trace=folder / f"{fault}.jsonl",
                    prefix=under_rlhfd(lab, f"run-{fault}", daemon.endpoint, "--samples"),
                )
                for fault, step in FAULT_STEP.items()
            }
            try:
                for process in processes.values():
                    assert process.wait(900) == 0, process.tail()
            finally:
                for process in processes.values():
                    process.kill()
            wait_for(lambda: daemon.status()["targets"]["hook"].get("delivered") == len(hook.calls))
        finally:
            daemon.stop()
        logged = {fault: rows(folder / f"{fault}.jsonl") for fault in FAULT_STEP}
        yield Outcome(hook.calls, daemon.frames(), logged, daemon.state / "frames")


def first_call(outcome: Outcome, run: str) -> tuple[float, dict[str, Any]]:
    """The first call about ``run``, which tells of the episode that the fault is."""
    return next((at, body["data"]) for at, body in outcome.calls if body["data"]["run"] == run)


def alert_of(outcome: Outcome, run: str, rule: str, metrics: set[str]) -> dict[str, Any]:
    """The first alert of ``rule`` about one of ``metrics`` in the recording, as `rlhfd check` has it."""
    command = [sys.executable, "-m", "rlhfd_daemon", "check", "--json", str(outcome.frame_log)]
    lines = subprocess.run(command, capture_output=True).stdout.splitlines()
    episodes = {body["data"]["episode"]["id"] for _, body in outcome.calls if body["data"]["run"] == run}
    found = [json.loads(line) for line in lines]
    return next(
        one for one in found
        if (one["state"], one["rule"]) == ("firing", rule) and one["metric"] in metrics and one["episode"] in episodes
    )  # fmt: skip


def logged_at(outcome: Outcome, fault: str, step: int) -> float:
    """When OpenRLHF logged ``step`` (Unix seconds)."""
    return float(next(row["time"] for row in outcome.logged[fault] if row["step"] == step))


def test_a_nan_reward_calls_the_webhook_in_time_and_is_told_with_metric_step_and_run(outcome: Outcome) -> None:
    step = FAULT_STEP["nan"]
    arrived, data = first_call(outcome, "run-nan")
    assert (data["severity"], data["state"]) == ("critical", "firing")
    assert "NaN" in data["summary"]
    assert arrived < logged_at(outcome, "nan", step + WITHIN_STEPS)
    alert = alert_of(outcome, "run-nan", "non_finite", {"train/reward"})
    assert (alert["step"], alert["onset_step"], alert["value"]) == (step, step, "NaN")
    assert alert["episode"] == data["episode"]["id"]


def test_a_constant_reward_calls_the_webhook_in_time_and_is_told_with_metric_step_and_run(outcome: Outcome) -> None:
    step = FAULT_STEP["const"]
    arrived, data = first_call(outcome, "run-const")
    assert data["family"] in ("reward", "advantage")
    assert step <= data["alerts"][0]["onset_step"] <= step + WITHIN_STEPS
    assert step <= data["step"] <= step + WITHIN_STEPS
    assert arrived < logged_at(outcome, "const", step + WITHIN_STEPS)
    spread = {"train/rollout/reward_std", "train/group_reward_std"}
    alert = alert_of(outcome, "run-const", "level_change", spread)
    assert (alert["onset_step"], alert["value"], alert["episode"]) == (step, 0.0, data["episode"]["id"])


def test_the_two_runs_are_kept_apart(outcome: Outcome) -> None:
    assert not [body for _, body in outcome.calls if body["data"]["run"] not in ("run-nan", "run-const")]
    assert not [body for _, body in outcome.calls
                if (body["data"]["run"], body["data"]["rule"]) == ("run-const", "non_finite")]  # fmt: skip
    boots = {run: {frame.boot for frame in outcome.frames if frame.run == run} for run in ("run-nan", "run-const")}
    assert all(len(found) == 1 for found in boots.values())
    for fault in FAULT_STEP:
        arrived = {f.step: f.metrics for f in outcome.frames if f.run == f"run-{fault}" and STEP_TOTAL in f.metrics}
        for row in outcome.logged[fault]:
            assert arrived[row["step"]][STEP_TOTAL] == row[STEP_TOTAL]


def test_the_recording_replays_to_the_alerts_that_were_sent(outcome: Outcome) -> None:
    command = [sys.executable, "-m", "rlhfd_daemon", "replay", str(outcome.frame_log)]
    first, second = (subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second
    assert sorted(first.splitlines()) == sorted(canonical_json(body) for _, body in outcome.calls)


def test_the_samples_that_a_run_was_asked_for_are_judged_offline(outcome: Outcome) -> None:
    command = [sys.executable, "-m", "rlhfd_daemon", "reward", "--json", "--run", "run-const", str(outcome.frame_log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = json.loads(done.stdout)
    assert (done.returncode, found["samples"]) == (2, STEPS * ROLLOUT_BATCH * SAMPLES_PER_PROMPT)
    (constant,) = [one for one in found["issues"] if one["kind"] == "constant"]
    assert constant["first_step"] <= FAULT_STEP["const"] + 8
    assert constant["last_step"] == STEPS


def test_a_constant_reward_is_told_of_its_samples_within_ten_steps(outcome: Outcome) -> None:
    alert = alert_of(outcome, "run-const", "samples_constant", {"rlhfd/reward/std"})
    assert FAULT_STEP["const"] < alert["step"] <= FAULT_STEP["const"] + 10
