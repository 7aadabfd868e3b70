"""Every signal of the trainer's samples and experiences against an independent computation from the same tensors."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from experiences import STEP_FIELDS, dumped, made_up
from openrlhf import recomputed, recomputed_rewards
from openrlhf.conftest import STEPS, PpoRun
from openrlhf.lab import Lab
from openrlhf.recomputed import Args
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.metrics import lookup

LAG = {"rlhfd/policy_lag/mean", "rlhfd/policy_lag/max"}
MADE_UP = 40
OVERHEAD = "rlhfd/overhead/experience_seconds"


def arguments(frames: Sequence[Frame]) -> Args:
    """OpenRLHF's arguments of the run."""
    return next(dict(frame.fields["args"]) for frame in frames if frame.event == "run_start")


def with_metric(frames: Sequence[Frame], name: str) -> list[Frame]:
    """The frames that have the metric, in the order in which they were made."""
    return sorted((frame for frame in frames if name in frame.metrics), key=lambda frame: frame.mono_ns)


def check_experiences(frames: Sequence[Frame], dump: Path, args: Args) -> None:
    """Every step has one frame, with exactly the signals that can be computed, and their values. Any estimator."""
    steps = recomputed.steps(dump)
    found = with_metric(frames, "rlhfd/samples")
    assert steps
    assert [frame.step for frame in found] == list(range(1, len(steps) + 1))
    for frame, one in zip(found, steps, strict=True):
        wanted = recomputed.expected(one, args)
        assert set(frame.metrics) - LAG - {OVERHEAD} == set(wanted), frame.step
        for name, value in wanted.items():
            # Raw advantages were rounded to OpenRLHF's float32 on the way to the returns.
            same = math.isclose(frame.metrics[name], value, rel_tol=1e-4, abs_tol=2e-6)
            assert same, (frame.step, name, frame.metrics[name], value)


def check_summaries(frames: Sequence[Frame], dump: Path, args: Args) -> None:
    """Every step has one summary of its rewards, and single answers are not sent. Any estimator."""
    steps = recomputed.steps(dump)
    found = sorted((frame for frame in frames if frame.event == "reward_summary"), key=lambda frame: frame.mono_ns)
    assert [frame.step for frame in found] == list(range(1, len(steps) + 1))
    for frame, one in zip(found, steps, strict=True):
        recomputed_rewards.check_summary(frame.fields, one, args)
    assert not any(frame.event == "reward_samples" for frame in frames)


def check_lags(frames: Sequence[Frame], dump: Path) -> list[float]:
    """The lags, of which each is checked: the n-th generation is trained on in the n-th step."""
    calls, generations = recomputed.about(dump), recomputed.about(dump, "generation-")
    found = with_metric(frames, "rlhfd/samples")
    assert len(found) == len(calls) <= len(generations)
    for frame, call, generation in zip(found, calls, generations, strict=False):
        lag = sum(over > generation["began"] for over in call["broadcasts"])
        assert (frame.metrics["rlhfd/policy_lag/mean"], frame.metrics["rlhfd/policy_lag/max"]) == (lag, lag), frame.step
    return [frame.metrics["rlhfd/policy_lag/max"] for frame in found]


def check_generations(frames: Sequence[Frame], dump: Path) -> list[Frame]:
    """The frames of the generations, each checked against the call."""
    found, calls = with_metric(frames, "rlhfd/generation/prompts"), recomputed.about(dump, "generation-")
    assert len(found) == len(calls) > 0
    for frame, call in zip(found, calls, strict=True):
        assert frame.metrics["rlhfd/generation/prompts"] == call["prompts"]
        assert frame.metrics["rlhfd/generation/samples"] == len(call["tokens"])
        speed = sum(call["tokens"]) / call["seconds"]
        assert frame.metrics["rlhfd/generation/tokens_per_second"] == pytest.approx(speed, rel=0.1)
    return found


def test_every_signal_of_every_step_equals_its_recomputation(ppo_run: PpoRun) -> None:
    check_experiences(ppo_run.frames, ppo_run.dump, arguments(ppo_run.frames))
    assert len(with_metric(ppo_run.frames, "rlhfd/samples")) == STEPS


def test_every_summary_of_rewards_equals_its_recomputation(ppo_run: PpoRun) -> None:
    check_summaries(ppo_run.frames, ppo_run.dump, arguments(ppo_run.frames))


def test_with_a_critic_a_reference_model_and_rollout_probabilities_nothing_is_absent(ppo_run: PpoRun) -> None:
    names = {name for frame in with_metric(ppo_run.frames, "rlhfd/samples") for name in frame.metrics}
    for name in ("explained_variance", "kl/k3", "mismatch/chi2", "group/zero_std_ratio", "correlation/kl_reward"):
        assert f"rlhfd/{name}" in names
    assert len(names) >= 50


def test_the_step_is_the_one_under_which_openrlhf_logs_the_same_batch(ppo_run: PpoRun) -> None:
    by_step = {frame.step: frame.metrics for frame in with_metric(ppo_run.frames, "rlhfd/samples")}
    pairs = {
        "train/rollout/reward_mean": "rlhfd/reward/mean",
        "train/rollout/response_length_mean": "rlhfd/response_length/mean",
        "train/rollout/truncated_rate": "rlhfd/response_length/truncated_ratio",
    }
    for row in ppo_run.logged:
        for theirs, ours in pairs.items():
            assert by_step[row["step"]][ours] == pytest.approx(row[theirs], rel=1e-5, abs=1e-6), (row["step"], ours)
    assert len({row["train/rollout/reward_mean"] for row in ppo_run.logged}) > STEPS / 2


def test_in_synchronous_training_no_sample_is_older_than_the_policy(ppo_run: PpoRun) -> None:
    assert set(check_lags(ppo_run.frames, ppo_run.dump)) == {0.0}


def test_generations_say_how_much_and_how_fast_in_the_step_that_follows(ppo_run: PpoRun) -> None:
    found = check_generations(ppo_run.frames, ppo_run.dump)
    assert [frame.step for frame in found] == list(range(1, STEPS + 1))


def test_no_signal_failed_and_each_has_a_row_in_the_table(ppo_run: PpoRun) -> None:
    assert [frame.fields for frame in ppo_run.frames if frame.event == "hook_failed"] == []
    names = {name for frame in ppo_run.frames if frame.role == "PPOTrainer" for name in frame.metrics}
    ours = {name for name in names if name.startswith("rlhfd/")}
    rows = {name: lookup(name) for name in ours}
    assert [name for name, row in rows.items() if row is None or row.origin != "rlhfd"] == []


def test_the_signals_cost_little(ppo_run: PpoRun) -> None:
    spent = sorted(frame.metrics[OVERHEAD] for frame in with_metric(ppo_run.frames, OVERHEAD))
    assert len(spent) == STEPS
    assert 0 < spent[len(spent) // 2] < 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_made_up_batches_have_the_same_signals_in_torch(lab: Lab, tmp_path: Path, dtype: str) -> None:
    for seed in range(MADE_UP):
        fields = made_up(seed)
        named = {f"{i}/{name}": value for i, each in enumerate(fields) for name, value in each.items()}
        arrays = {
            name: value for name, value in named.items() if value is not None and name.partition("/")[2] != "args"
        }
        np.savez(tmp_path / f"{seed}.npz", args=json.dumps(fields[0]["args"]), **arrays)
    program = Path(__file__).parent / "signals_in_torch.py"
    done = subprocess.run([lab.python, program, tmp_path, dtype], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("signals.")] == []
    for seed in range(MADE_UP):
        fields = made_up(seed)
        with np.load(tmp_path / f"cast-{seed}.npz") as cast:
            for i, each in enumerate(fields):
                each.update({name: cast[f"{i}/{name}"] for name in STEP_FIELDS if each[name] is not None})
                each["raw"] = each["returns"] - (0 if each["values"] is None else each["values"])
        one, got = recomputed.step(dumped(fields, 0.01)), json.loads((tmp_path / f"{seed}.json").read_text())
        if one.tokens("returns"):
            assert got == pytest.approx(recomputed.expected(one, fields[0]["args"]), rel=1e-9, abs=1e-9), seed
