"""Reward calls of real PPO runs: a function one of whose calls sleeps, and a remote model that fails and then dies."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from openrlhf.conftest import Hook, daemon_with_hook
from openrlhf.lab import Lab
from openrlhf.runs import ROLLOUT_BATCH, SAMPLES_PER_PROMPT, rows, start_ppo, under_rlhfd
from rlhfd_daemon.frame import Frame
from support import wait_for

CALLS = ROLLOUT_BATCH * SAMPLES_PER_PROMPT
NAME = "rlhfd/reward_call"
SLEEPS_AT, SLEEP_SECONDS, FOUND_SECONDS, CALL_SECONDS = 5, 25.0, 20.0, 0.02
# A thread waits for the interpreter lock after its sleep, or before our second look: a single one may wait long.
TOLERANCE_SECONDS, TAIL_TOLERANCE_SECONDS = 0.02, 0.3
GOOD_STEPS, ATTEMPTS = 3, 5

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Outcome:
    """What is left of a run: ``calls`` are what its webhook got, ``told`` what the reward noted of itself."""

    exit_code: int
    frames: list[Frame]
    calls: list[tuple[float, dict[str, Any]]]
    told: list[dict[str, Any]]
    logged: list[dict[str, Any]]

    @property
    def aggregates(self) -> list[Frame]:
        return [frame for frame in self.frames if f"{NAME}/count" in frame.metrics]

    def events(self, *names: str) -> list[Frame]:
        return [frame for frame in self.frames if frame.event in names]


def total(frames: list[Frame], name: str) -> float:
    return sum(frame.metrics.get(f"{NAME}/{name}", 0.0) for frame in frames)


@pytest.fixture(scope="module")
def sleeping(lab: Lab, ray: str, folder: Path) -> Outcome:
    """The first call of step 5 sleeps."""
    times, trace = folder / "times.jsonl", folder / "sleeping.jsonl"
    env = {
        "LAB_SLOW_SECONDS": str(SLEEP_SECONDS), "LAB_CALL_SECONDS": str(CALL_SECONDS), "LAB_REWARD_TIMES": str(times),
    }  # fmt: skip
    with Hook() as hook:
        daemon = daemon_with_hook(folder, hook).start()
        try:
            with start_ppo(
                lab, ray, "sleeping", steps=SLEEPS_AT + 2, reward="slow", fault_step=SLEEPS_AT, env=env, trace=trace,
                log=folder / "sleeping.log", prefix=under_rlhfd(lab, "sleeping", daemon.endpoint),
            ) as process:  # fmt: skip
                exit_code = process.wait(600)
                assert exit_code == 0, process.tail()
            wait_for(lambda: daemon.status()["targets"]["hook"].get("delivered") == len(hook.calls) > 1)
        finally:
            daemon.stop()
        return Outcome(exit_code, daemon.frames(), hook.calls, rows(times), rows(trace))


def test_a_sleeping_call_is_a_stalled_reward_phase_of_its_process(sleeping: Outcome) -> None:
    slow = max(sleeping.told, key=lambda call: float(call["seconds"]))
    (stalled,) = sleeping.events("phase_stalled")
    fields = stalled.fields
    assert (fields["phase"], fields["role"], fields["pid"]) == ("reward", "RolloutRayActor", slow["pid"])
    assert fields["host"]
    assert 0 < stalled.time_ns / 1e9 - slow["began"] < FOUND_SECONDS
    (resumed,) = sleeping.events("phase_resumed")
    assert resumed.fields["id"] == fields["id"]
    assert 0 < resumed.time_ns / 1e9 - slow["ended"] < 5


def test_the_stall_is_alerted_in_time_and_resolved(sleeping: Outcome) -> None:
    slow = max(sleeping.told, key=lambda call: float(call["seconds"]))
    told = [(body["data"]["rule"], body["data"]["state"]) for _, body in sleeping.calls]
    assert told == [("stalled_phase", "firing"), ("stalled_phase", "resolved")]
    arrived, body = sleeping.calls[0]
    assert arrived - slow["began"] < FOUND_SECONDS
    assert "reward of RolloutRayActor" in json.dumps(body)
    assert "reward function" in json.dumps(body)


def test_every_sample_is_one_call_and_none_failed(sleeping: Outcome) -> None:
    assert len(sleeping.told) == CALLS * (SLEEPS_AT + 2) == total(sleeping.aggregates, "count")
    assert total(sleeping.aggregates, "failed_count") == 0
    assert not any(f"{NAME}/retries" in frame.metrics for frame in sleeping.aggregates)
    assert sleeping.events("reward_failed") == []


def test_latencies_are_those_that_the_reward_function_measured_itself(sleeping: Outcome) -> None:
    began, healthy = 0.0, 0
    for frame in sleeping.aggregates:
        told = [call["seconds"] for call in sleeping.told if began < call["ended"] <= frame.time_ns / 1e9]
        began = frame.time_ns / 1e9
        got = {name.removeprefix(f"{NAME}/"): value for name, value in frame.metrics.items()}
        assert got["count"] == len(told)
        if not told:
            continue
        wanted = {
            "latency_mean_seconds": statistics.mean(told), "latency_max_seconds": max(told),
            "latency_p50_seconds": statistics.median(told), "latency_p99_seconds": float(np.percentile(told, 99)),
        }  # fmt: skip
        for name, value in wanted.items():
            tail = name in ("latency_max_seconds", "latency_p99_seconds")
            assert got[name] == pytest.approx(value, abs=TAIL_TOLERANCE_SECONDS if tail else TOLERANCE_SECONDS), name
        assert all(got[name] >= value for name, value in wanted.items())  # we measure round it
        healthy += max(told) < 1
    assert healthy >= SLEEPS_AT - 1
    assert max(frame.metrics.get(f"{NAME}/latency_max_seconds", 0) for frame in sleeping.aggregates) > SLEEP_SECONDS


def test_the_call_shows_as_long_as_it_hangs(sleeping: Outcome) -> None:
    hanging = [frame for frame in sleeping.aggregates if frame.metrics.get(f"{NAME}/oldest_seconds", 0) > 5]
    assert len(hanging) >= 2
    assert all(frame.metrics[f"{NAME}/in_flight"] >= 1 for frame in hanging)


def test_each_generation_costs_few_frames(sleeping: Outcome) -> None:
    begun = [frame for frame in sleeping.events("phase_begin") if frame.fields["phase"] == "reward"]
    assert SLEEPS_AT < len(begun) < 6 * SLEEPS_AT
    assert SLEEPS_AT < len(sleeping.aggregates) < 6 * SLEEPS_AT


@dataclass
class RemoteModel:
    """A reward service: every fifth request fails, and all of them once ``GOOD_STEPS`` steps' calls were answered."""

    url: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)
    answered: int = 0

    async def serve(self, request: web.Request) -> web.Response:
        began = time.time()
        body = await request.json()
        await asyncio.sleep(0.02)
        dead = self.answered >= GOOD_STEPS * CALLS
        failing = dead or len(self.log) % 5 == 4
        self.answered += not failing
        status = 500 if failing else 200
        self.log.append({"dead": dead, "status": status, "began": began, "ended": time.time(), "query": body["query"]})
        if failing:
            return web.Response(status=status)
        return web.json_response({"rewards": 0.5, "scores": 0.5, "extra_logs": {}})


@contextmanager
def served() -> Iterator[RemoteModel]:
    """A :class:`RemoteModel` on the loopback interface, in a thread."""
    model, ready, loop = RemoteModel(), threading.Event(), asyncio.new_event_loop()
    stopped = asyncio.Event()

    async def run() -> None:
        application = web.Application()
        application.router.add_post("/get_reward", model.serve)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        model.url = f"http://127.0.0.1:{runner.addresses[0][1]}/get_reward"
        ready.set()
        await stopped.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield model
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(20)
        loop.close()


@pytest.fixture(scope="module")
def remote(lab: Lab, ray: str, folder: Path) -> Outcome:
    """The service dies at step 4, and OpenRLHF with it."""
    directory = folder / "r"
    directory.mkdir()
    trace = directory / "trace.jsonl"
    with Hook() as hook, served() as model:
        daemon = daemon_with_hook(directory, hook).start()
        try:
            with start_ppo(
                lab, ray, "remote", steps=GOOD_STEPS + 2, trace=trace, extra=("--reward.remote_url", model.url),
                log=directory / "remote.log", prefix=under_rlhfd(lab, "remote", daemon.endpoint),
            ) as process:  # fmt: skip
                exit_code = process.wait(600)
            wait_for(lambda: any(body["data"]["rule"] == "reward_failed" for _, body in hook.calls))
        finally:
            daemon.stop()
        return Outcome(exit_code, daemon.frames(), hook.calls, model.log, rows(trace))


def test_retries_and_failures_are_those_in_the_server_s_log(remote: Outcome) -> None:
    assert remote.exit_code != 0  # what a dead reward service does to OpenRLHF
    failed = [call for call in remote.told if call["status"] == 500]
    good = [call for call in remote.told if call["status"] == 200]
    assert len(good) == GOOD_STEPS * CALLS
    lost = len(remote.told) / ATTEMPTS  # an upper bound
    calls, gone = total(remote.aggregates, "count"), total(remote.aggregates, "failed_count")
    assert 0 < gone <= lost
    assert calls == len(good) + gone
    # Each failed request is followed by another, but for the last attempt of a call that is lost.
    assert total(remote.aggregates, "retries") == len(failed) - gone
    tail = [frame for frame in remote.aggregates if frame.metrics[f"{NAME}/failed_count"]]
    assert {frame.metrics[f"{NAME}/failed_ratio"] for frame in tail} == {1.0}


def test_latencies_of_a_remote_model_have_its_own_time_and_the_waits_in_them(remote: Outcome) -> None:
    (first, *_) = [frame for frame in remote.aggregates if frame.metrics[f"{NAME}/count"]]
    assert first.metrics[f"{NAME}/latency_p50_seconds"] >= 0.02
    assert first.metrics[f"{NAME}/latency_max_seconds"] >= 1.02  # a second between two attempts
    until = first.time_ns / 1e9
    queries = Counter(str(call["query"]) for call in remote.told if call["ended"] <= until)
    assert sum(queries.values()) == first.metrics[f"{NAME}/count"] + first.metrics[f"{NAME}/retries"]
    lost = [frame for frame in remote.aggregates if frame.metrics[f"{NAME}/failed_count"]]
    assert min(frame.metrics[f"{NAME}/latency_p50_seconds"] for frame in lost) >= ATTEMPTS + ATTEMPTS * 0.02


def test_the_failure_is_told_and_alerted_before_the_run_is_over(remote: Outcome) -> None:
    first, *more = remote.events("reward_failed")
    assert len(more) <= 2
    assert first.role == "RolloutRayActor"
    assert first.fields["call"] == "http"
    assert first.fields["error"].startswith("RuntimeError: Request error for 5 times")
    assert first.fields["error"].endswith("last attempt: HTTP 500")
    assert first.fields["retries"] == ATTEMPTS - 1
    (data,) = [body["data"] for _, body in remote.calls
               if (body["data"]["rule"], body["data"]["state"]) == ("reward_failed", "firing")]  # fmt: skip
    assert data["severity"] == "critical"
    assert "HTTP 500" in json.dumps(data)
