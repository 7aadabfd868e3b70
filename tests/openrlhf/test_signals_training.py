"""Every signal of the policy's and the critic's training against an independent computation from the same tensors."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from openrlhf import recomputed_training
from openrlhf.conftest import STEPS, PpoRun
from openrlhf.lab import Lab
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.metrics import lookup
from trainings import made_up

MADE_UP = 30
OVERHEAD = "rlhfd/overhead/training_seconds"
ROLES = {"policy": "PolicyModelActor", "critic": "CriticModelActor"}
EXPECTED = {"policy": recomputed_training.policy, "critic": recomputed_training.critic}


def trained(frames: Sequence[Frame], kind: str, rank: int = 0) -> list[Frame]:
    """The frames of one rank of ``policy`` or ``critic`` with its signals, in the order in which they were made."""
    found = [frame for frame in frames if frame.rank == rank and f"rlhfd/{kind}/tokens" in frame.metrics]
    assert {frame.role for frame in found} == {ROLES[kind]}
    return sorted(found, key=lambda frame: frame.mono_ns)


def check_training(frames: Sequence[Frame], dump: Path, kind: str, rank: int = 0, first: int = 1) -> list[Frame]:
    """Every step has one frame, with exactly the signals that can be computed, and their values."""
    calls, found = recomputed_training.calls(dump, kind, rank), trained(frames, kind, rank)
    assert calls
    assert [frame.step for frame in found] == list(range(first, first + len(calls)))
    for frame, arrays in zip(found, calls, strict=True):
        wanted = EXPECTED[kind](arrays)
        assert set(frame.metrics) - {OVERHEAD} == set(wanted), frame.step
        for name, value in wanted.items():
            same = math.isclose(frame.metrics[name], value, rel_tol=1e-4, abs_tol=1e-9)
            assert same, (frame.step, name, frame.metrics[name], value)
    return found


@pytest.mark.parametrize("kind", ROLES)
def test_every_signal_of_every_step_equals_its_recomputation(ppo_run: PpoRun, kind: str) -> None:
    assert len(check_training(ppo_run.frames, ppo_run.dump, kind)) == STEPS


def test_the_last_gradient_norm_is_the_one_that_openrlhf_logs(ppo_run: PpoRun) -> None:
    for row, frame in zip(ppo_run.logged, trained(ppo_run.frames, "policy"), strict=True):
        assert frame.metrics["rlhfd/policy/gradient_norm_last"] == pytest.approx(row["train/actor_grad_norm"], rel=1e-6)
    norms = [frame.metrics for frame in trained(ppo_run.frames, "critic")]
    assert any(each["rlhfd/critic/gradient_norm_max"] != each["rlhfd/critic/gradient_norm_last"] for each in norms)


def test_what_openrlhf_logs_too_is_the_same(ppo_run: PpoRun) -> None:
    clipped = []
    for row, frame in zip(ppo_run.logged, trained(ppo_run.frames, "policy"), strict=True):
        metrics = frame.metrics
        clipped.append(metrics["rlhfd/ratio/clipped_low_ratio"] + metrics["rlhfd/ratio/clipped_high_ratio"])
        assert clipped[-1] == pytest.approx(row["train/ppo_clip_ratio"], rel=1e-4, abs=1e-7), frame.step
        assert metrics["rlhfd/policy_kl/k1"] == pytest.approx(row["train/ppo_kl"], rel=1e-3, abs=1e-6), frame.step
    assert any(clipped)


def test_two_optimizer_steps_are_made_in_each_step_of_the_run(ppo_run: PpoRun) -> None:
    for kind in ROLES:
        for frame in trained(ppo_run.frames, kind):
            made = frame.metrics[f"rlhfd/{kind}/optimizer_steps"], frame.metrics[f"rlhfd/{kind}/skipped_steps"]
            assert made == (2, 0)


def test_the_second_half_of_a_step_is_off_policy_and_the_signals_show_it(ppo_run: PpoRun) -> None:
    frames = [frame.metrics for frame in trained(ppo_run.frames, "policy")]
    # While the learning rate warms up, the first optimizer step of the run changes nothing.
    moved = [each for each in frames if each["rlhfd/ratio/min"] < 1 < each["rlhfd/ratio/max"]]
    assert len(moved) >= STEPS - 2
    assert all(0 < each["rlhfd/policy_kl/k3"] < 1 for each in moved)
    assert all(0.1 < each["rlhfd/ratio/ess_ratio"] < 1 for each in moved)


def test_no_signal_failed_and_each_has_a_row_in_the_table(ppo_run: PpoRun) -> None:
    assert [frame.fields for frame in ppo_run.frames if frame.event == "hook_failed"] == []
    for kind, role in ROLES.items():
        for name in {name for frame in trained(ppo_run.frames, kind) for name in frame.metrics}:
            row = lookup(name)
            assert row is not None, name
            assert row.origin == "rlhfd"
            assert role in row.role


def test_the_signals_cost_little(ppo_run: PpoRun) -> None:
    for kind in ROLES:
        spent = sorted(frame.metrics[OVERHEAD] for frame in trained(ppo_run.frames, kind))
        assert len(spent) == STEPS
        assert 0 < spent[len(spent) // 2] < 0.05


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_made_up_calls_have_the_same_signals_in_torch_and_a_micro_batch_waits_for_no_device(
    lab: Lab, tmp_path: Path, dtype: str
) -> None:
    names = [(kind, f"{kind}-{seed}", made_up(seed, kind)) for kind in ROLES for seed in range(MADE_UP)]
    for _, name, arrays in names:
        np.savez(tmp_path / f"{name}.npz", **arrays)
    here = Path(__file__).parent
    command: list[str | Path] = [lab.python, here / "training_in_torch.py", tmp_path, dtype]
    environment = {**os.environ, "PYTHONPATH": str(here.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert (done.returncode, [line for line in done.stderr.splitlines() if line.startswith("signals.")]) == (0, [])
    for kind, name, _ in names:
        with np.load(tmp_path / f"cast-{name}.npz") as cast:
            wanted = EXPECTED[kind](dict(cast))
        assert json.loads((tmp_path / f"{name}.json").read_text()) == pytest.approx(wanted, rel=1e-9, abs=1e-9), name
