"""vLLM's own numbers as they arrive from a real run, against what the trainer and the policy saw of the same work."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from openrlhf import recomputed
from openrlhf.conftest import STEPS, PpoRun
from openrlhf.lab import Lab
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.metrics import lookup

ENGINE = "rlhfd/engine/0/"
UNDER_WAY = "rlhfd/engine/requests_under_way"
SYNC = "rlhfd/engine/weight_sync/"
OVERHEAD = "rlhfd/overhead/engine_seconds"


def readings(run: PpoRun) -> list[dict[str, float]]:
    """The engine's metrics in the order in which they were read, without what comes before the name."""
    found = sorted((frame for frame in run.frames if UNDER_WAY in frame.metrics), key=lambda frame: frame.seq)
    return [{name.removeprefix(ENGINE): value for name, value in frame.metrics.items()} for frame in found]


def syncs(run: PpoRun) -> list[Frame]:
    return sorted((frame for frame in run.frames if f"{SYNC}seconds" in frame.metrics), key=lambda frame: frame.seq)


def phases(frames: Sequence[Frame], role: str, phase: str) -> list[tuple[Frame, Frame]]:
    """The beginning and end of each."""
    found = [frame for frame in frames if frame.role == role and frame.fields.get("phase") == phase]
    ends = {frame.fields["id"]: frame for frame in found if frame.event == "phase_end"}
    begun = sorted((frame for frame in found if frame.event == "phase_begin"), key=lambda frame: frame.seq)
    return [(begin, ends[begin.fields["id"]]) for begin in begun]


def parameters(model: Path) -> int:
    """How many tensors the model's files hold."""
    count = 0
    for path in model.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            count += len(set(json.loads(file.read(length))) - {"__metadata__"})
    return count


def test_tokens_and_requests_are_those_that_the_trainer_got(ppo_run: PpoRun) -> None:
    calls = recomputed.about(ppo_run.dump, "generation-")
    tokens = list(itertools.accumulate(sum(call["tokens"]) for call in calls))
    requests = list(itertools.accumulate(len(call["tokens"]) for call in calls))
    found = readings(ppo_run)
    assert (found[-1]["generated_tokens_total"], found[-1]["requests_finished_total"]) == (tokens[-1], requests[-1])
    between = {(one["generated_tokens_total"], one["requests_finished_total"]) for one in found if not one[UNDER_WAY]}
    assert between <= set(zip(tokens, requests, strict=True)), "read when a generation was over, all of it is there"
    assert len(between) > STEPS / 2


def test_the_truncated_share_is_the_one_that_openrlhf_logs(ppo_run: PpoRun) -> None:
    finished, truncated = 0.0, 0.0
    for one in readings(ppo_run):
        truncated += one.get("truncated_ratio", 0.0) * (one["requests_finished_total"] - finished)
        finished = one["requests_finished_total"]
    logged = [row["train/rollout/truncated_rate"] for row in ppo_run.logged]
    assert truncated / finished == pytest.approx(sum(logged) / STEPS, abs=1e-6)
    assert finished > 0


def test_the_parts_of_a_request_s_time_are_within_the_whole(ppo_run: PpoRun) -> None:
    generations = [end.fields["seconds"] for _, end in phases(ppo_run.frames, "RolloutRayActor", "generation")]
    found = [one for one in readings(ppo_run) if "request/mean_seconds" in one]
    assert len(found) > STEPS / 2
    shares = []
    for one in found:
        parts = sum(one[f"{part}/mean_seconds"] for part in ("queue", "prefill", "decode"))
        whole = one["request/mean_seconds"]
        shares.append(parts / whole)  # the rest is the front end's
        assert 0 < shares[-1] <= 1.05
        assert whole <= max(generations)
        # Of requests whose first token came before the last reading there is none to tell.
        assert one.get("first_token/mean_seconds", 0.0) <= whole
        for name in ("queue", "prefill", "decode", "request"):
            assert 0 <= one[f"{name}/p50_seconds"] <= one[f"{name}/p99_seconds"]
    assert sorted(shares)[len(shares) // 2] > 0.2


def test_the_speed_is_above_that_of_a_generation_in_which_rewards_are_computed_too(ppo_run: PpoRun) -> None:
    calls = recomputed.about(ppo_run.dump, "generation-")
    overall = sum(sum(call["tokens"]) for call in calls) / sum(call["seconds"] for call in calls)
    speeds = sorted(one["generated_tokens_per_second"] for one in readings(ppo_run) if not one[UNDER_WAY])
    assert 0.9 * overall <= speeds[len(speeds) // 2] <= 20 * overall


def test_what_is_left_at_the_end_is_nothing(ppo_run: PpoRun) -> None:
    found = readings(ppo_run)
    last = found[-1]
    assert (last[UNDER_WAY], last["requests_running"], last["requests_waiting"]) == (0, 0, 0)
    assert all(0 <= one["kv_cache_ratio"] <= 1 and one["sleeping"] == 0 for one in found)
    assert sum(one["preemptions"] for one in found) == 0


def test_every_broadcast_is_one_weight_sync_of_all_parameters_within_it(ppo_run: PpoRun, lab: Lab) -> None:
    broadcasts, found = phases(ppo_run.frames, "PPOTrainer", "broadcast"), syncs(ppo_run)
    seen = phases(ppo_run.frames, "RolloutRayActor", "weight_sync")
    assert len(found) == len(seen) == len(broadcasts) >= STEPS - 1
    for (begun, ended), (begin, end), frame in zip(broadcasts, seen, found, strict=True):
        assert begun.mono_ns < begin.mono_ns < end.mono_ns < ended.mono_ns
        values = {name.removeprefix(SYNC): value for name, value in frame.metrics.items()}
        assert values["calls"] == parameters(lab.assets / "sft")
        assert 0 < values["call_seconds"] <= values["seconds"] < ended.fields["seconds"]
        assert end.fields["seconds"] == pytest.approx(values["seconds"], abs=0.02)


def test_nothing_failed_each_metric_has_a_row_and_a_reading_costs_little(ppo_run: PpoRun) -> None:
    frames = [frame for frame in ppo_run.frames if frame.role == "RolloutRayActor"]
    assert [frame.fields for frame in frames if frame.event == "hook_failed"] == []
    rows = {name: lookup(name) for frame in frames for name in frame.metrics}
    assert [name for name, row in rows.items() if row is None or row.origin != "rlhfd"] == []
    spent = sorted(one[OVERHEAD] for one in readings(ppo_run))
    assert 0 < spent[len(spent) // 2] < 0.05
