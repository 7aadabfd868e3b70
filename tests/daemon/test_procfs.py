"""What ``/proc`` says of processes and of the node is understood; what it cannot mean is unknown."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from procdir import stat_line
from rlhfd_daemon import nodefs, procfs
from rlhfd_daemon.nodefs import CpuTicks
from rlhfd_daemon.procfs import Stat
from rlhfd_daemon.rates import Rates, growth_per_second
from rlhfd_daemon.refusals import RETRY_SECONDS, Refusals
from support import wait_for

SPEED = "/sys/class/net/lo/speed"  # the loopback has none, and says EINVAL
MEMINFO = b"""MemTotal:       1000 kB
MemFree:         100 kB
MemAvailable:    400 kB
SwapTotal:        50 kB
SwapFree:         20 kB
HugePages_Total:       0
"""
PROC_STAT = b"""cpu  100 20 30 1000 40 5 6 7 8 9
cpu0 100 20 30 1000 40 5 6 7 8 9
intr 1 2 3
procs_running 3
procs_blocked 2
"""
DISKSTATS = b"""   8       0 sda 10 0 16 0 5 0 8 0 0 0 0 0 0 0 0 0 0
   8       1 sda1 10 0 16 0 5 0 8 0 0 0 0 0 0 0 0 0 0
 259       0 nvme0n1 1 0 2 0 1 0 4 0 0 0 0
"""
NETWORK = b"""Inter-|   Receive                            |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls
    lo: 5000 1 0 0 0 0 0 0 5000 1 0 0 0 0 0 0
  eth0:100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0
eth0:1: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0
"""


@given(name=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n"), max_size=15))
def test_any_name_of_a_process_is_read_back(name: str) -> None:
    line = stat_line(42, 7, name, "t", cpu_ticks=11, threads=3, start_ticks=99, rss_pages=5).encode()
    assert procfs.parse_stat(line) == Stat(42, name, "t", 7, 11, 3, 99, 5)


@given(content=st.binary(max_size=300))
def test_no_content_breaks_a_parser(content: bytes) -> None:
    procfs.parse_stat(content)
    procfs.parse_limit(content)
    nodefs.parse_cpu(content)
    nodefs.parse_meminfo(content)
    nodefs.parse_pressure(content)
    nodefs.parse_load(content)
    nodefs.parse_file_handles(content)


@pytest.mark.parametrize("content", [b"", b"7 (x) S 1", b"x (y) S " + b"1 " * 49, b"7 (y) S " + b"x " * 49])
def test_what_is_no_stat_line_is_unknown(content: bytes) -> None:
    assert procfs.parse_stat(content) is None


def test_this_process_looks_as_psutil_says() -> None:
    own, expected = procfs.stat(os.getpid()), psutil.Process()
    assert own is not None
    assert (own.pid, own.parent, own.threads) == (expected.pid, expected.ppid(), expected.num_threads())
    assert own.rss_pages * procfs.PAGE_BYTES == pytest.approx(expected.memory_info().rss, rel=0.05)
    times = expected.cpu_times()
    assert own.cpu_ticks / procfs.CLOCK_TICKS == pytest.approx(times.user + times.system, abs=1.0)
    assert own.start_ticks / procfs.CLOCK_TICKS + psutil.boot_time() == pytest.approx(expected.create_time(), abs=2.0)


def test_a_child_is_listed_with_its_files_until_it_is_gone() -> None:
    child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL)
    try:
        assert {os.getpid(), child.pid} <= set(procfs.pids())
        # While it starts, its loader has libraries open now and then.
        wait_for(lambda: procfs.open_files(child.pid) == psutil.Process(child.pid).num_fds() == 3)
        assert procfs.open_files_limit(child.pid) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        child.kill()
        child.wait(10)
    wait_for(lambda: child.pid not in procfs.pids())
    assert procfs.stat(child.pid) is None
    assert procfs.open_files(child.pid) is None
    assert procfs.open_files_limit(child.pid) is None


def test_open_files_are_counted_where_the_folder_s_size_says_nothing(tmp_path: Path) -> None:
    """Before Linux 6.2 the size is 0, which no other file system does for us here."""
    folder = tmp_path / "42" / "fd"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / str(number)).touch()
    size = os.stat(folder).st_size
    assert procfs.open_files(42, tmp_path) == (size or 3)


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        (b"Max open files            1024                 524288               files     \n", 1024),
        (b"Max open files            unlimited            unlimited            files     \n", None),
        (b"Max locked memory         65536                65536                bytes     \n", None),
    ],
)
def test_the_soft_limit_of_open_files(line: bytes, limit: int | None) -> None:
    assert procfs.parse_limit(b"Limit   Soft Limit  Hard Limit  Units\n" + line) == limit


@pytest.mark.parametrize(("content", "number"), [("12\n", 12), ("max\n", None), ("", None), (None, None)])
def test_a_file_that_is_one_number(tmp_path: Path, content: str | None, number: int | None) -> None:
    if content is not None:
        (tmp_path / "file").write_text(content)
    assert procfs.read_int(tmp_path / "file") == number


def test_a_file_longer_than_one_read_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 200_000)
    assert len(procfs.read_bytes(tmp_path / "file")) == 200_000


def test_node_files_are_understood() -> None:
    assert nodefs.parse_cpu(PROC_STAT) == CpuTicks(busy=100 + 20 + 30 + 5 + 6 + 7, iowait=40, idle=1000)
    assert nodefs.parse_procs_blocked(PROC_STAT) == 2
    assert nodefs.parse_meminfo(MEMINFO) == {"total": 1024000, "available": 409600, "swap_used": 30720}
    assert nodefs.parse_oom_kills(b"nr_free_pages 1\noom_kill 3\n") == 3
    pressure = b"some avg10=1.50 avg60=0.80 avg300=0.30 total=2\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=0\n"
    assert nodefs.parse_pressure(pressure) == {"some": 0.015, "full": 0.0025}
    assert nodefs.parse_load(b"1.50 0.80 0.30 3/250 4242\n") == 1.5
    assert nodefs.parse_disks(DISKSTATS, lambda name: name != "sda1") == (
        {"sda": 16 * 512, "nvme0n1": 2 * 512}, {"sda": 8 * 512, "nvme0n1": 4 * 512},
    )  # fmt: skip
    assert nodefs.parse_network(NETWORK, lambda name: name != "lo") == (
        {"eth0": 100, "eth0:1": 10}, {"eth0": 200, "eth0:1": 20},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "ratios"),
    [
        (CpuTicks(100, 10, 900), CpuTicks(150, 20, 940), (0.5, 0.1)),
        (CpuTicks(100, 10, 900), CpuTicks(100, 10, 900), (None, None)),
        (CpuTicks(100, 10, 900), CpuTicks(150, 5, 950), (0.5, None)),
        (CpuTicks(100, 10, 900), CpuTicks(90, 10, 910), (None, 0.0)),
        (CpuTicks(100, 10, 900), CpuTicks(0, 0, 0), (None, None)),
    ],
    ids=["usual", "no time has passed", "iowait went back", "busy went back", "everything went back"],
)
def test_promise_F5_shares_of_cpu_time_from_counters_that_may_go_back(
    before: CpuTicks, after: CpuTicks, ratios: tuple[float | None, float | None]
) -> None:
    assert nodefs.cpu_ratios(before, after) == ratios


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"MemTotal: 10 kB\nMemAvailable: 11 kB\n", {"total": 10240}),
        (b"MemTotal: 0 kB\n", {}),
        (b"SwapTotal: 5 kB\nSwapFree: 6 kB\n", {}),
        (b"SwapTotal: 5 kB\n", {}),
        (b"", {}),
    ],
)
def test_promise_F5_more_memory_than_there_is_is_unknown(content: bytes, expected: dict[str, float]) -> None:
    assert nodefs.parse_meminfo(content) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"914 0 2465959", (914, 2465959)),
        (b"914 14 9223372036854775807", (900, None)),
        (b"5 10 100", (None, 100)),
        (b"914 0", (None, None)),
    ],
)
def test_promise_F5_open_files_without_a_limit(content: bytes, expected: tuple[int | None, int | None]) -> None:
    assert nodefs.parse_file_handles(content) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, 0.5),
        (1.0005, 1.0),
        (-0.0005, 0.0),
        (1.1, None),
        (76265.16, None),
        (-1.0, None),
        (float("nan"), None),
        (None, None),
    ],
)
def test_promise_F5_a_share_beyond_all_is_unknown(value: float | None, expected: float | None) -> None:
    assert nodefs.ratio(value) == expected
    if value is not None and value >= 0:
        shown = nodefs.parse_pressure(f"some avg10={value * 100:.2f} avg60=0.00 avg300=0.00 total=1\n".encode())
        assert shown.get("some") == (None if expected is None else pytest.approx(expected, abs=1e-3))


@pytest.mark.parametrize(
    ("before", "after", "seconds", "rate"),
    [
        ({"a": 10}, {"a": 30}, 2.0, 10.0),
        ({"a": 10, "b": 5}, {"a": 30, "b": 5}, 2.0, 10.0),
        ({"a": 10}, {"a": 30, "new": 999}, 2.0, 10.0),
        ({"a": 10, "left": 999}, {"a": 30}, 2.0, 10.0),
        ({"a": 10}, {"a": 3}, 2.0, None),
        ({"a": 10, "b": 5}, {"a": 30, "b": 4}, 2.0, None),
        ({"a": 2**32 - 1}, {"a": 5}, 1.0, None),
        ({"a": 0}, {"a": 2**64 - 1}, 1.0, None),
        ({"a": 10}, {"a": 30}, 0.0, None),
        ({"a": 10}, {"a": 30}, -1.0, None),
        ({}, {"a": 30}, 1.0, None),
        ({"a": 10}, {}, 1.0, None),
    ],
    ids=[
        "usual", "sum", "a new one counts from now", "one that left", "went back", "one of two went back",
        "wrapped at 32 bits", "absurd", "no time", "time went back", "first look", "nothing left",
    ],
)  # fmt: skip
def test_promise_F5_what_cannot_be_a_rate_is_unknown(
    before: dict[str, int], after: dict[str, int], seconds: float, rate: float | None
) -> None:
    assert growth_per_second(before, after, seconds) == rate


def test_promise_F5_a_counter_that_went_back_is_counted_again_from_there() -> None:
    rates = Rates()
    seen = [rates.per_second("x", {"a": value}, now) for now, value in enumerate((100, 150, 20, 50))]
    assert seen == [None, 50.0, None, 30.0]


@pytest.mark.skipif(not os.path.exists(SPEED), reason="no sysfs here")
def test_promise_F7_a_file_of_the_kernel_that_says_invalid_is_left_alone_for_an_hour() -> None:
    refusals = Refusals()
    assert refusals.read(SPEED, 100.0) == b""
    asked = (100.0, 100.0 + RETRY_SECONDS - 1, 100.0 + RETRY_SECONDS)
    assert [refusals.allow(SPEED, now) for now in asked] == [False, False, True]


@pytest.mark.parametrize(
    ("error", "asked_again"),
    [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.ENOENT, True), (errno.EACCES, True), (errno.EINTR, True)],
)
def test_promise_F7_only_a_refusal_keeps_us_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, asked_again: bool
) -> None:
    reads: list[str] = []

    def refuse(path: str | Path) -> bytes:
        reads.append(str(path))
        raise OSError(error, "refused")

    monkeypatch.setattr("rlhfd_daemon.refusals.read_bytes", refuse)
    refusals = Refusals()
    for second in range(3600):
        assert refusals.read(tmp_path / "port", float(second)) == b""
    assert len(reads) == (3600 if asked_again else 1)
    refusals.read(tmp_path / "port", 3601.0)
    assert len(reads) == (3601 if asked_again else 2)
