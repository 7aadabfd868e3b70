"""What the daemon sees of real Ray actors that know nothing of rlhfd, against what Ray and the actors measured."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openrlhf.lab import Lab
from openrlhf.ray_head import ray_head
from rlhfd_daemon.config_host import RayConfig
from rlhfd_daemon.metrics import lookup
from rlhfd_daemon.observation import Observation, Subject
from rlhfd_daemon.pollers.ray import RayPoller
from rlhfd_daemon.pollers.schedule import Schedule
from rlhfd_daemon.runs import Peer, Runs
from support import DaemonProcess, running_daemon
from wire import frame

DRIVER = Path(__file__).with_name("ray_actors.py")
CONFIG = "[pollers.ray]\ninterval_seconds = 1.0\nsample_seconds = 0.25\nunobserved_after_seconds = 0\n"
STORE_SECONDS = 25.0  # Ray writes its account every 10 s
NODE_SECONDS = 60.0
RUN = Subject("r", "b")


@dataclass(frozen=True)
class Seen:
    """``ray`` is what the driver said at its end; ``reports`` the poller's, each with its time."""

    ray: dict[str, Any]
    pids: dict[str, int]
    reports: list[tuple[float, dict[str, float]]]
    methods: set[tuple[int, str]]
    of_node: list[dict[str, float]]  # by a daemon that knows of no run


@pytest.fixture(scope="module")
def seen(lab: Lab, folder: Path) -> Seen:
    """Two actors beside each other, one of which an emitter is said to be in."""
    with ray_head(lab) as address, running_daemon(folder, CONFIG) as daemon:
        environment = lab.environment() | {"PYTHONPATH": ""}
        command = [str(lab.python), str(DRIVER), address]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as driver:
            assert driver.stdin is not None
            assert driver.stdout is not None
            pids = json.loads(driver.stdout.readline())
            ray, reports, methods = asyncio.run(watch(driver, pids))
            # On a busy machine the daemon comes to look at the actors later than we do.
            deadline = time.monotonic() + NODE_SECONDS
            while not has_seen_all(of_node(daemon)) and time.monotonic() < deadline:
                time.sleep(0.2)
            driver.stdin.close()
        return Seen(ray, pids, reports, methods, of_node(daemon))


def of_node(daemon: DaemonProcess) -> list[dict[str, float]]:
    """What the daemon has recorded so far of the node."""
    return [one.metrics for one in daemon.frames() if one.run.startswith("node:")]


def has_seen_all(metrics: list[dict[str, float]]) -> bool:
    """Both actors, and the one that was busy at rest, as it is from its last call on."""
    shares = [one["ray/HalfBusy/busy_ratio"] for one in metrics if "ray/HalfBusy/busy_ratio" in one]
    return 0.0 in shares and any("ray/NeverBusy/busy_ratio" in one for one in metrics)


async def watch(
    driver: subprocess.Popen[bytes], pids: dict[str, int]
) -> tuple[dict[str, Any], list[tuple[float, dict[str, float]]], set[tuple[int, str]]]:
    runs = Runs()
    runs.admit(frame(1, role="NeverBusy", rank=0), Peer(0, pids["never"]), time.time())
    poller = RayPoller(RayConfig(interval_seconds=1.0, sample_seconds=0.25, unobserved_after_seconds=0), runs)
    reports: list[tuple[float, dict[str, float]]] = []
    methods: set[tuple[int, str]] = set()

    def record(observations: Sequence[Observation], now_ns: int) -> None:
        reports.extend((now_ns / 1e9, one.metrics) for one in observations if one.subject == RUN)

    schedule = Schedule([poller], record)
    schedule.start()
    assert driver.stdout is not None
    said = asyncio.get_running_loop().run_in_executor(None, driver.stdout.readline)
    while not said.done():
        await asyncio.sleep(0.1)
        methods |= set(poller.methods().items())
    ray = json.loads(await said)
    deadline = time.monotonic() + STORE_SECONDS
    while reports[-1][1].get("ray/objects_spilled_total") != ray["spilled_objects"] and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    await schedule.stop()
    assert schedule.health["ray"].failures == 0
    return ray, reports, methods


def values(seen: Seen, name: str) -> list[float]:
    """Of the run, one for each report that has it."""
    return [metrics[name] for _, metrics in seen.reports if name in metrics]


def test_the_busy_share_is_what_the_actor_itself_measured(seen: Seen) -> None:
    calls = seen.ray["calls"]
    first, last = calls[0][0], calls[-1][0]  # whole periods of call and pause
    expected = sum(end - began for began, end in calls[:-1]) / (last - first)
    shares = [metrics["ray/HalfBusy/busy_ratio"] for at, metrics in seen.reports if first + 1 < at <= last + 1]
    assert len(shares) >= 8
    assert sum(shares) / len(shares) == pytest.approx(expected, abs=0.1)
    longest = max(values(seen, "ray/HalfBusy/method_seconds"))
    assert 0.3 < longest < max(end - began for began, end in calls) + 0.5


def test_the_method_that_runs_is_named(seen: Seen) -> None:
    assert (seen.pids["half"], "compute_half") in seen.methods


def test_an_idle_actor_is_idle_and_the_observed_one_has_its_name_of_the_run(seen: Seen) -> None:
    shares = values(seen, "ray/NeverBusy-0/busy_ratio")
    assert len(shares) >= 8
    assert set(shares) == {0.0}


def test_the_object_store_is_told_as_ray_tells_it(seen: Seen) -> None:
    metrics = seen.reports[-1][1]
    assert metrics["ray/object_store_capacity_bytes"] == seen.ray["capacity"]
    assert metrics["ray/object_store_used_bytes"] == seen.ray["used"] == seen.ray["primary_copies"] > 0


def test_what_was_spilled_is_told_as_ray_tells_it(seen: Seen) -> None:
    metrics = seen.reports[-1][1]
    assert metrics["ray/object_store_spilled_bytes"] == seen.ray["spilled"] > 0
    assert metrics["ray/objects_spilled_total"] == seen.ray["spilled_objects"] > 0
    assert metrics["ray/objects_restored_total"] == seen.ray["restored_objects"]


def test_actors_of_no_known_run_are_the_nodes(seen: Seen) -> None:
    shares = [metrics["ray/HalfBusy/busy_ratio"] for metrics in seen.of_node if "ray/HalfBusy/busy_ratio" in metrics]
    assert max(shares) >= 0.5
    assert min(shares) == 0.0
    assert any("ray/NeverBusy/busy_ratio" in metrics for metrics in seen.of_node)


def test_every_metric_has_its_row_in_the_table(seen: Seen) -> None:
    for _, metrics in seen.reports:
        for name in metrics:
            assert lookup(name) is not None, name
