"""What the processes of a run use: real processes beside psutil, and made-up ones for what seldom happens."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from procdir import add_process
from rlhfd_daemon import procfs
from rlhfd_daemon.config_host import ProcessesConfig
from rlhfd_daemon.metrics import lookup
from rlhfd_daemon.observation import Observation, Subject
from rlhfd_daemon.pollers.processes import ProcessPoller
from rlhfd_daemon.procfs import Stat
from rlhfd_daemon.run_processes import MAX_CORES, cpu_ratio
from rlhfd_daemon.runs import Peer, Runs
from support import wait_for
from wire import frame

BOOT = 1_000_000
PAGE = procfs.PAGE_BYTES


class World:
    """Runs whose processes are made of files; a poll happens ``seconds`` after the one before."""

    def __init__(self, proc: Path, seconds: float = 2.0) -> None:
        proc.mkdir(exist_ok=True)
        self.proc, self.seconds, self.mono = proc, seconds, 0.0
        self.runs = Runs()
        (proc / "stat").write_text(f"cpu 1 2 3 4 5 6\nbtime {BOOT}\n")
        self.oom_kills(0)
        self.poller = ProcessPoller(ProcessesConfig(), self.runs, proc=proc, mono=self.tick)

    def tick(self) -> float:
        self.mono += self.seconds
        return self.mono

    def oom_kills(self, count: int) -> None:
        (self.proc / "vmstat").write_text(f"oom_kill {count}\n")

    def add(
        self, pid: int, role: str = "PolicyModelActor", rank: int | None = 0, *, run: str = "r", seen: float = BOOT
    ) -> None:
        one = frame(1, run=run, role=role, rank=rank, stream=f"{run}-{pid}")
        self.runs.admit(one, Peer(0, pid), seen)

    def poll(self) -> list[Observation]:
        return list(asyncio.run(self.poller.poll(0.0)))

    def metrics(self, run: str = "r") -> dict[str, float]:
        found: dict[str, float] = {}
        for one in self.poll():
            if one.subject == Subject(run, "b"):
                found.update(one.metrics)
        return {name.removeprefix("process/"): value for name, value in found.items()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "proc")


def test_what_a_process_uses_is_named_by_role_and_rank(world: World) -> None:
    folder = add_process(world.proc, 10, threads=7, rss_pages=100, cpu_ticks=50)
    (folder / "oom_score").write_text("667\n")
    (folder / "limits").write_text("Max open files            1000                 524288               files     \n")
    (folder / "fd").mkdir()
    for number in range(5):
        (folder / "fd" / str(number)).touch()
    world.add(10)
    opened = procfs.open_files(10, world.proc)
    assert opened is not None
    expected = {
        "rss_bytes": 100 * PAGE, "threads": 7, "open_files": opened, "open_files_ratio": opened / 1000,
        "children_rss_bytes": 0, "oom_score": 667,
    }  # fmt: skip
    assert world.metrics() == {f"PolicyModelActor-0/{name}": value for name, value in expected.items()}
    add_process(world.proc, 10, cpu_ticks=50 + procfs.CLOCK_TICKS)
    assert world.metrics()["PolicyModelActor-0/cpu_ratio"] == 0.5


def test_another_user_s_process_shows_what_everybody_may_see(world: World) -> None:
    add_process(world.proc, 10, rss_pages=100)
    world.add(10)
    assert set(world.metrics()) == {
        f"PolicyModelActor-0/{name}" for name in ("rss_bytes", "threads", "children_rss_bytes")
    }


def test_descendants_count_for_the_nearest_process_of_a_run_above_them(world: World) -> None:
    """Ray's driver is above all actors, an engine core below its actor."""
    for pid, parent, pages in ((10, 1, 1), (11, 10, 10), (20, 11, 100), (30, 20, 1000), (31, 30, 5000), (99, 1, 70000)):
        add_process(world.proc, pid, parent, rss_pages=pages)
    world.add(10, "PPOTrainer", None)
    world.add(20, "RolloutRayActor", None)
    metrics = world.metrics()
    assert metrics["PPOTrainer/children_rss_bytes"] == 10 * PAGE
    assert metrics["RolloutRayActor/children_rss_bytes"] == 6000 * PAGE
    assert metrics["RolloutRayActor/rss_bytes"] == 100 * PAGE


def test_a_pid_that_was_given_to_another_process_is_not_the_run_s(world: World) -> None:
    add_process(world.proc, 10, start_ticks=100, rss_pages=1)
    world.add(10)
    assert world.metrics()
    add_process(world.proc, 10, start_ticks=99_999, rss_pages=2)
    assert world.metrics() == {}


def test_a_pid_that_was_given_away_before_the_daemon_came_is_not_the_run_s(world: World) -> None:
    """After a restart the daemon knows a stream's pid from its log."""
    add_process(world.proc, 10, start_ticks=3600 * procfs.CLOCK_TICKS)
    world.add(10, seen=BOOT + 60.0)
    assert world.metrics() == {}
    add_process(world.proc, 11, start_ticks=30 * procfs.CLOCK_TICKS)
    world.add(11, seen=BOOT + 60.0)
    assert world.metrics()


def test_each_run_has_its_own_processes_and_the_node_is_none_of_them(world: World) -> None:
    for pid in (10, 20):
        add_process(world.proc, pid, rss_pages=pid)
    world.add(10, run="r")
    world.add(20, run="other")
    assert world.metrics("r")["PolicyModelActor-0/rss_bytes"] == 10 * PAGE
    assert world.metrics("other")["PolicyModelActor-0/rss_bytes"] == 20 * PAGE


def test_no_runs_are_no_observations(world: World) -> None:
    assert world.poll() == []


def test_many_processes_are_spread_over_observations_that_fit_into_a_frame(world: World) -> None:
    for pid in range(1000, 1200):
        add_process(world.proc, pid)
        world.add(pid, rank=pid)
    seen = world.poll()
    assert len(seen) > 1
    assert max(len(one.metrics) for one in seen) <= 512
    assert len({name for one in seen for name in one.metrics}) == 200 * 3


@pytest.mark.parametrize(
    ("ticks", "seconds", "ratio"),
    [
        (100, 1.0, 100 / procfs.CLOCK_TICKS),
        (0, 5.0, 0.0),
        (-1, 5.0, None),
        (100, 0.0, None),
        (100, -1.0, None),
        (int(procfs.CLOCK_TICKS * MAX_CORES) + 1, 1.0, None),
        (2**63, 1.0, None),
    ],
)
def test_promise_F5_cpu_time_that_cannot_be_is_unknown(ticks: int, seconds: float, ratio: float | None) -> None:
    before = Stat(1, "x", "S", 1, 1000, 1, 5, 1)
    assert cpu_ratio(before, before._replace(cpu_ticks=1000 + ticks), seconds) == ratio


def test_the_control_group_nearest_to_its_limit_is_the_run_s(world: World, tmp_path: Path) -> None:
    (world.proc / "self").mkdir()
    (world.proc / "self" / "mountinfo").write_text(f"30 1 0:1 / {tmp_path}/fs rw - cgroup2 cgroup2 rw\n")
    for pid, group, used in ((10, "a", 300), (11, "b", 900)):
        folder = tmp_path / "fs" / group
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text("1000\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.events").write_text("oom_kill 0\n")
        (add_process(world.proc, pid) / "cgroup").write_text(f"0::/{group}\n")
        world.add(pid, rank=pid)
    seen = {name: value for name, value in world.metrics().items() if name.startswith("cgroup/")}
    assert seen == {"cgroup/memory_bytes": 900, "cgroup/memory_limit_bytes": 1000, "cgroup/oom_kills_total": 0}
    (tmp_path / "fs" / "b" / "memory.events").write_text("oom_kill 1\n")
    (world.proc / "11" / "stat").unlink()
    events = [one for one in world.poll() if one.event]
    assert [(one.event, one.subject.run, one.fields["critical"]) for one in events] == [("oom_kill", "r", True)]


def test_an_oom_kill_names_the_descendant_that_vanished(world: World) -> None:
    for pid, parent in ((10, 1), (20, 10)):
        add_process(world.proc, pid, parent, name=f"name{pid}", rss_pages=1000)
    world.add(10, "RolloutRayActor", None)
    world.poll()
    (world.proc / "20" / "stat").unlink()
    world.oom_kills(1)
    (event,) = [one for one in world.poll() if one.event]
    assert (event.event, event.subject) == ("oom_kill", Subject("r", "b"))
    assert event.fields["victims"] == [
        {"process": "RolloutRayActor", "pid": 20, "command": "name20", "rss_bytes": 1000 * PAGE, "child": True}
    ]
    assert [one for one in world.poll() if one.event] == []


def test_who_was_adopted_or_had_ended_before_is_no_victim_but_a_reused_pid_is(world: World) -> None:
    for pid, parent, state in ((1, 0, "S"), (10, 1, "S"), (20, 10, "S"), (21, 20, "S"), (22, 10, "Z"), (23, 10, "S")):
        add_process(world.proc, pid, parent, state=state)
    world.add(10, "RolloutRayActor", None)
    world.poll()
    (world.proc / "20" / "stat").unlink()
    (world.proc / "20").rmdir()
    add_process(world.proc, 21, 1)
    (world.proc / "22" / "stat").unlink()
    add_process(world.proc, 23, 10, start_ticks=5000)
    world.seconds = 10.0
    world.oom_kills(5)
    (event,) = [one for one in world.poll() if one.event]
    victims = event.fields["victims"]
    assert isinstance(victims, list)
    assert sorted(victim["pid"] for victim in victims) == [20, 23]


def test_who_took_leave_is_no_victim(world: World) -> None:
    add_process(world.proc, 10)
    world.add(10)
    world.poll()
    world.runs.end("r-10", "process_stop")
    (world.proc / "10" / "stat").unlink()
    world.oom_kills(1)
    told = [one for _ in range(2) for one in world.poll() if one.event]
    assert [one.fields["victims"] for one in told] == [[]]


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """A process that keeps a core busy and has a child with 50 MB."""
    child = "x = bytearray(50_000_000); import time; time.sleep(600)"
    code = f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {child!r}])\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    members = []
    try:
        wait_for(lambda: psutil.Process(process.pid).children())
        members = psutil.Process(process.pid).children()
        wait_for(lambda: members[0].memory_info().rss > 50_000_000)
        yield process
    finally:
        for one in members:
            one.kill()
        process.kill()
        process.wait(10)


def test_real_processes_use_what_psutil_says(worker: subprocess.Popen[bytes]) -> None:
    runs = Runs()
    runs.admit(frame(1, role="RolloutRayActor", rank=None), Peer(0, worker.pid), time.time())
    poller, expected = ProcessPoller(ProcessesConfig(), runs), psutil.Process(worker.pid)
    before = sum(expected.cpu_times()[:2])
    began = time.time()
    asyncio.run(poller.poll(time.time()))
    began_by = time.time()
    started = sum(expected.cpu_times()[:2])
    wait_for(lambda: sum(expected.cpu_times()[:2]) > started + 0.5)
    least, ends = sum(expected.cpu_times()[:2]) - started, time.time()
    (seen,) = asyncio.run(poller.poll(time.time()))
    most, ended = sum(expected.cpu_times()[:2]) - before, time.time()
    metrics = {name.removeprefix("process/RolloutRayActor/"): value for name, value in seen.metrics.items()}
    assert 0.9 * least / (ended - began) < metrics["cpu_ratio"] < 1.1 * most / (ends - began_by)
    assert metrics["rss_bytes"] == pytest.approx(expected.memory_info().rss, rel=0.05)
    assert metrics["children_rss_bytes"] == pytest.approx(expected.children()[0].memory_info().rss, rel=0.05)
    assert metrics["threads"] == expected.num_threads()
    assert metrics["open_files"] == expected.num_fds()
    assert metrics["open_files_ratio"] == expected.num_fds() / expected.rlimit(psutil.RLIMIT_NOFILE)[0]
    assert 0 <= metrics["oom_score"] <= 2000


def test_a_process_that_was_killed_is_gone_at_the_next_look(worker: subprocess.Popen[bytes]) -> None:
    runs = Runs()
    runs.admit(frame(1), Peer(0, worker.pid), time.time())
    poller = ProcessPoller(ProcessesConfig(), runs)
    assert asyncio.run(poller.poll(time.time()))
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(10)
    assert list(asyncio.run(poller.poll(time.time()))) == []


def test_every_metric_has_its_row_in_the_table(worker: subprocess.Popen[bytes]) -> None:
    runs = Runs()
    runs.admit(frame(1, role="PolicyModelActor"), Peer(0, worker.pid), time.time())
    poller = ProcessPoller(ProcessesConfig(), runs)
    # A busy share takes two looks that are some time apart.
    (seen,) = wait_for(lambda: [one for one in asyncio.run(poller.poll(time.time())) if len(one.metrics) == 7])
    for name in [*seen.metrics, "cgroup/memory_bytes", "cgroup/memory_limit_bytes", "cgroup/oom_kills_total"]:
        assert lookup(name) is not None, name
