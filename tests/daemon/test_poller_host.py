"""What the node is seen to do: on a made-up node, on this one, and when its clocks jump."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from rlhfd_daemon.clocks import Clocks, changes, read_clocks
from rlhfd_daemon.config_host import HostConfig
from rlhfd_daemon.metrics import lookup
from rlhfd_daemon.observation import Observation, node
from rlhfd_daemon.pollers.host import HostPoller

PRESSURE = "some avg10={} avg60=0.00 avg300=0.00 total=1\nfull avg10={} avg60=0.00 avg300=0.00 total=1\n"


def disks(read: int, written: int) -> str:
    """Sectors of a disk, its partition and a volume on it."""
    return "".join(f"8 0 {name} 1 0 {read} 0 1 0 {written} 0 0 0 0\n" for name in ("sda", "sda1", "dm-0"))


def network(received: int, sent: int, *names: str) -> str:
    lines = [f"{name}: {received} 0 0 0 0 0 0 0 {sent} 0\n" for name in names]
    return f"Inter-|\n face |\n  lo: {received * 9} 0 0 0 0 0 0 0 {sent * 9} 0\n{''.join(lines)}"


FILES = {
    "stat": "cpu  100 0 0 900 0 0 0 0 0 0\nprocs_blocked 2\n",
    "loadavg": "1.50 0.80 0.30 3/250 4242\n",
    "meminfo": "MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\n",
    "vmstat": "nr_free_pages 1\noom_kill 3\n",
    "pressure/cpu": PRESSURE.format("1.50", "0.00"),
    "pressure/memory": PRESSURE.format("2.00", "1.00"),
    "pressure/io": PRESSURE.format("4.00", "3.00"),
    "diskstats": disks(20, 10),
    "net/dev": network(100, 200, "eth0", "br0"),
    "sys/fs/file-nr": "900 0 2000\n",
}
LATER = {
    "stat": "cpu  150 0 0 930 20 0 0 0 0 0\nprocs_blocked 0\n",
    "diskstats": disks(40, 30),
    "net/dev": network(300, 700, "eth0", "br0"),
}


class Node:
    """A node made of files, whose clocks go on by ``seconds`` at every poll."""

    def __init__(self, folder: Path, seconds: float = 2.0) -> None:
        self.proc, self.sys, self.shm = folder / "proc", folder / "sys", folder / "shm"
        self.shm.mkdir()
        self.clocks = Clocks(1e9, 100.0, 200.0)
        self.seconds = seconds
        self.write(FILES)
        for device in ("block/sda/device", "class/net/eth0/device"):
            (self.sys / device).mkdir(parents=True)
        self.poller = HostPoller(HostConfig(), proc=self.proc, sys=self.sys, shm=self.shm, clocks=self.tick)

    def write(self, files: dict[str, str]) -> None:
        for name, content in files.items():
            path = self.proc / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    def tick(self) -> Clocks:
        self.clocks = Clocks(*(clock + self.seconds for clock in self.clocks))
        return self.clocks

    def poll(self) -> list[Observation]:
        return list(asyncio.run(self.poller.poll(0.0)))

    def metrics(self) -> dict[str, float]:
        (one,) = self.poll()
        assert one.subject == node()
        assert one.event is None
        return {name.removeprefix("host/"): value for name, value in one.metrics.items()}


@pytest.fixture
def made_up(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_first_look_gives_what_needs_no_past(made_up: Node) -> None:
    metrics = made_up.metrics()
    assert {name: metrics[name] for name in metrics if not name.startswith("shm")} == {
        "load_1m": 1.5, "processes_blocked": 2, "memory_total_bytes": 1024000, "memory_available_bytes": 409600,
        "swap_used_bytes": 30720, "oom_kills_total": 3, "cpu_pressure_some_ratio": 0.015,
        "memory_pressure_some_ratio": 0.02, "memory_pressure_full_ratio": 0.01, "io_pressure_some_ratio": 0.04,
        "io_pressure_full_ratio": 0.03, "open_files": 900, "open_files_limit": 2000,
    }  # fmt: skip


def test_a_second_look_gives_shares_and_rates_of_physical_devices_only(made_up: Node) -> None:
    made_up.poll()
    made_up.write(LATER)
    metrics = made_up.metrics()
    rates = {name: value for name, value in metrics.items() if "per_second" in name or name.startswith("cpu_")}
    assert rates == {
        "cpu_ratio": 0.5, "cpu_iowait_ratio": 0.2, "cpu_pressure_some_ratio": 0.015,
        "disk_read_bytes_per_second": 20 * 512 / 2, "disk_write_bytes_per_second": 20 * 512 / 2,
        "network_receive_bytes_per_second": 100.0, "network_transmit_bytes_per_second": 250.0,
    }  # fmt: skip


def test_a_container_s_virtual_interface_counts_where_there_is_no_other(made_up: Node) -> None:
    (made_up.sys / "class/net/eth0/device").rmdir()
    made_up.write({"net/dev": network(100, 200, "eth0")})
    made_up.poll()
    made_up.write({"net/dev": network(300, 700, "eth0")})
    assert made_up.metrics()["network_receive_bytes_per_second"] == 100.0


def test_promise_F5_counters_that_went_back_are_absent_once(made_up: Node) -> None:
    made_up.write(LATER)
    made_up.poll()
    made_up.write(FILES)
    assert not [name for name in made_up.metrics() if "per_second" in name or name == "cpu_ratio"]
    made_up.write(LATER)
    assert made_up.metrics()["disk_read_bytes_per_second"] == 20 * 512 / 2


@pytest.mark.parametrize(
    ("missing", "lost"),
    [
        ("stat", {"cpu_ratio", "cpu_iowait_ratio", "processes_blocked"}),
        ("loadavg", {"load_1m"}),
        ("meminfo", {"memory_total_bytes", "memory_available_bytes", "swap_used_bytes"}),
        ("vmstat", {"oom_kills_total"}),
        ("pressure/memory", {"memory_pressure_some_ratio", "memory_pressure_full_ratio"}),
        ("diskstats", {"disk_read_bytes_per_second", "disk_write_bytes_per_second"}),
        ("net/dev", {"network_receive_bytes_per_second", "network_transmit_bytes_per_second"}),
        ("sys/fs/file-nr", {"open_files", "open_files_limit"}),
    ],
)
def test_a_kernel_without_one_of_the_files_gives_all_else(tmp_path: Path, missing: str, lost: set[str]) -> None:
    found = []
    for name, lacking in (("whole", ""), ("lacking", missing)):
        (tmp_path / name).mkdir()
        made_up = Node(tmp_path / name)
        if lacking:
            (made_up.proc / lacking).unlink()
        made_up.poll()
        made_up.write({name: content for name, content in LATER.items() if name != lacking})
        found.append(set(made_up.metrics()))
    assert found[0] - found[1] == lost
    assert found[1] <= found[0]


def test_nothing_at_all_is_no_observation(tmp_path: Path) -> None:
    poller = HostPoller(HostConfig(), proc=tmp_path / "proc", sys=tmp_path / "sys", shm=tmp_path / "shm")
    assert list(asyncio.run(poller.poll(0.0))) == []


def test_the_container_s_limit_counts_but_not_that_of_the_daemon_s_own_service(tmp_path: Path) -> None:
    def limits(group: str) -> dict[str, float]:
        folder = tmp_path / group.strip("/")
        (folder / "proc" / "self").mkdir(parents=True)
        (folder / "proc" / "self" / "cgroup").write_text(f"0::{group}\n")
        (folder / "proc" / "self" / "mountinfo").write_text(f"30 1 0:1 / {folder}/fs rw - cgroup2 cgroup2 rw\n")
        own = folder / "fs" / group.strip("/")
        own.mkdir(parents=True)
        for name, content in (
            ("max", "1000"),
            ("current", "600"),
            ("stat", "inactive_file 100"),
            ("events", "oom_kill 4"),
        ):
            (own / f"memory.{name}").write_text(f"{content}\n")
        poller = HostPoller(HostConfig(), proc=folder / "proc", sys=folder / "sys", shm=folder / "shm")
        return {name: value for one in asyncio.run(poller.poll(0.0)) for name, value in one.metrics.items()}

    assert limits("/docker/abc") == {
        "host/cgroup_memory_bytes": 500, "host/cgroup_memory_limit_bytes": 1000, "host/cgroup_oom_kills_total": 4,
    }  # fmt: skip
    assert limits("/system.slice/rlhfd.service") == {}


START = Clocks(1e9, 100.0, 200.0)


@pytest.mark.parametrize(
    ("after", "events"),
    [
        (Clocks(1e9 + 5, 105.0, 205.0), {}),
        (Clocks(1e9 + 5.4, 105.0, 205.0), {}),
        (Clocks(1e9 + 7, 105.0, 205.0), {"clock_stepped": {"seconds": 2.0, "direction": "forward"}}),
        (Clocks(1e9 - 3595, 105.0, 205.0), {"clock_stepped": {"seconds": 3600.0, "direction": "backward"}}),
        (Clocks(1e9 + 65, 105.0, 265.0), {"host_suspended": {"seconds": 60.0}}),
        (
            Clocks(1e9 + 5, 105.0, 265.0),
            {"host_suspended": {"seconds": 60.0}, "clock_stepped": {"seconds": 60.0, "direction": "backward"}},
        ),
        (Clocks(1e9 + 60, 160.0, 260.0), {}),
    ],
    ids=["steady", "slewed", "forward", "backward", "suspended", "suspended and stepped", "the daemon was stopped"],
)
def test_steps_of_the_wall_clock_and_sleep_are_told_apart(after: Clocks, events: dict[str, dict[str, object]]) -> None:
    assert changes(START, after) == events


def test_a_step_is_told_once(made_up: Node) -> None:
    made_up.poll()
    made_up.clocks = made_up.clocks._replace(wall=made_up.clocks.wall - 3600)
    events = [[(one.event, one.fields) for one in made_up.poll() if one.event] for _ in range(2)]
    assert events == [[("clock_stepped", {"seconds": 3600.0, "direction": "backward"})], []]


def test_the_clocks_of_this_machine_agree() -> None:
    first, second = read_clocks(), read_clocks()
    assert abs(first.wall - time.time()) < 60
    assert first.mono <= second.mono
    assert changes(first, second) == {}


@contextmanager
def real() -> Iterator[HostPoller]:
    poller = HostPoller(HostConfig())
    yield poller
    asyncio.run(poller.stop())


def test_this_node_looks_as_psutil_says() -> None:
    with real() as poller:
        (seen,) = asyncio.run(poller.poll(time.time()))
    memory, shm = psutil.virtual_memory(), psutil.disk_usage("/dev/shm")
    metrics = seen.metrics
    assert metrics["host/memory_total_bytes"] == memory.total
    assert metrics["host/memory_available_bytes"] == pytest.approx(memory.available, rel=0.1)
    assert metrics["host/swap_used_bytes"] == pytest.approx(psutil.swap_memory().used, abs=1e8)
    assert metrics["host/shm_total_bytes"] == shm.total
    assert metrics["host/load_1m"] == pytest.approx(os.getloadavg()[0], abs=1.0, rel=0.2)


def test_cpu_time_of_this_node_is_shared_out_as_psutil_says() -> None:
    poller = HostPoller(HostConfig())
    asyncio.run(poller.poll(time.time()))
    psutil.cpu_times_percent()
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:  # something to see
        sum(range(1000))
    (seen,) = asyncio.run(poller.poll(time.time()))
    expected = psutil.cpu_times_percent()
    assert seen.metrics["host/cpu_ratio"] == pytest.approx((100 - expected.idle - expected.iowait) / 100, abs=0.2)
    assert seen.metrics["host/cpu_iowait_ratio"] == pytest.approx(expected.iowait / 100, abs=0.2)


def test_every_metric_has_its_row_in_the_table(made_up: Node) -> None:
    made_up.poll()
    made_up.write(LATER)
    for name in made_up.metrics():
        row = lookup(f"host/{name}")
        assert row is not None, name
        assert row.origin == "rlhfd"
