"""Free space where the daemon and the runs write, and a mount that hangs, in a real daemon."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from procdir import add_process
from rlhfd_daemon.config_host import DisksConfig
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.metrics import lookup
from rlhfd_daemon.observation import node
from rlhfd_daemon.pollers.disks import DiskPoller, directories, space_of
from rlhfd_daemon.runs import Peer, Run, Runs
from rlhfd_emitter import Emitter
from support import DaemonProcess, running_daemon, wait_for
from wire import frame

SHM = Path("/dev/shm")
HANG = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* As on a mount whose server is gone: for paths below RLHFD_HANG_PATH, as long as RLHFD_HANG_WHILE exists. */
static void hang(const char *path) {
    const char *prefix = getenv("RLHFD_HANG_PATH"), *flag = getenv("RLHFD_HANG_WHILE");
    if (prefix && flag && strncmp(path, prefix, strlen(prefix)) == 0)
        while (access(flag, F_OK) == 0) usleep(10000);
}
int statvfs(const char *path, struct statvfs *found) {
    hang(path);
    return ((int (*)(const char *, struct statvfs *))dlsym(RTLD_NEXT, "statvfs"))(path, found);
}
int statvfs64(const char *path, struct statvfs64 *found) {
    hang(path);
    return ((int (*)(const char *, struct statvfs64 *))dlsym(RTLD_NEXT, "statvfs64"))(path, found);
}
"""


def run_of(
    args: dict[str, object], *, start: dict[str, object] | None = None, role: str = "trainer", pid: int = 7
) -> Runs:
    runs = Runs()
    runs.admit(frame(1, role=role, kind="event", event="process_start", fields=start or {}), Peer(0, pid), time.time())
    runs.admit(frame(2, role=role, kind="event", event="run_start", fields={"args": args}), Peer(0, pid), time.time())
    return runs


def the_run(runs: Runs) -> Run:
    (run,) = runs.runs.values()
    return run


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ({"ckpt.path": "/data/ckpt", "ckpt.output_dir": "/data/out/"}, ["/data/ckpt", "/data/out"]),
        ({"ckpt_path": "/data/ckpt", "save_path": "./out", "ckpt.path": None}, ["/data/ckpt", "/work/out"]),
        ({"ckpt.path": "../x"}, ["/x"]),
        ({"ckpt.path": ""}, []),
        ({}, []),
    ],
)
def test_a_run_writes_where_its_arguments_say(args: dict[str, object], found: list[str]) -> None:
    assert directories(the_run(run_of(args, start={"cwd": "/work"}))) == found


def test_a_relative_path_is_left_out_if_nobody_knows_the_working_directory(tmp_path: Path) -> None:
    assert directories(the_run(run_of({"ckpt.path": "./ckpt"})), tmp_path) == []
    (add_process(tmp_path, 7) / "cwd").symlink_to("/work")
    assert directories(the_run(run_of({"ckpt.path": "./ckpt"})), tmp_path) == ["/work/ckpt"]


def test_of_several_processes_the_one_that_writes_knows_the_working_directory() -> None:
    runs = run_of({"ckpt.path": "./ckpt"}, start={"cwd": "/driver"})
    started = frame(
        1, role="PolicyModelActor", stream="p", kind="event", event="process_start", fields={"cwd": "/actor"}
    )
    runs.admit(started, Peer(0, 8), time.time())
    assert directories(the_run(runs)) == ["/actor/ckpt"]


@pytest.mark.parametrize(
    ("numbers", "space"),
    [
        ((100, 40, 4096, 10, 5), {"free_bytes": 163840.0, "total_bytes": 409600.0, "inodes_free_ratio": 0.5}),
        ((100, 0, 4096, 10, 0), {"free_bytes": 0.0, "total_bytes": 409600.0, "inodes_free_ratio": 0.0}),
        ((100, 40, 4096, 0, 0), {"free_bytes": 163840.0, "total_bytes": 409600.0}),
        ((0, 0, 4096, 10, 5), {"inodes_free_ratio": 0.5}),
        ((100, 200, 4096, 10, 50), {}),
        ((2**62, 2**61, 4096, 2**64 - 1, 2**64 - 1), {"inodes_free_ratio": 1.0}),
        ((100, 2**64 - 1, 4096, 10, 5), {"inodes_free_ratio": 0.5}),
    ],
    ids=["usual", "full", "no fixed number of inodes", "no size", "more free than there is", "absurd size", "negative"],
)
def test_promise_F5_space_that_cannot_be_is_unknown(numbers: tuple[int, ...], space: dict[str, float]) -> None:
    assert space_of(*numbers) == space


@pytest.fixture
def on_shm() -> Iterator[Path]:
    """A folder on another file system than the temporary folder's."""
    folder = tempfile.mkdtemp(prefix="rlhfd-test-", dir=SHM)
    yield Path(folder)
    shutil.rmtree(folder)


def test_the_space_of_each_mount_is_what_psutil_says(tmp_path: Path, on_shm: Path) -> None:
    runs = run_of({"ckpt.path": str(on_shm / "later"), "ckpt.output_dir": str(tmp_path / "out")})
    poller = DiskPoller(DisksConfig(), runs, tmp_path)
    try:
        (seen,) = asyncio.run(poller.poll(0.0))
    finally:
        asyncio.run(poller.stop())
    assert seen.subject == node()
    expected, inodes = psutil.disk_usage(str(on_shm)), os.statvfs(on_shm)
    assert seen.metrics["disk/dev_shm/total_bytes"] == expected.total
    assert seen.metrics["disk/dev_shm/free_bytes"] == pytest.approx(expected.free, rel=0.05)
    assert seen.metrics["disk/dev_shm/inodes_free_ratio"] == pytest.approx(inodes.f_favail / inodes.f_files, abs=0.01)
    assert len(seen.metrics) in (5, 6)  # the temporary folder's file system may have no fixed number of inodes
    for name in seen.metrics:
        assert lookup(name) is not None, name


def test_a_path_that_is_not_to_be_seen_from_here_says_nothing(tmp_path: Path) -> None:
    """In a container beside that of the run only the root is left of its path."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text("1 1 0:1 / / rw - ext4 /dev/vda rw\n")
    poller = DiskPoller(DisksConfig(), run_of({"ckpt.path": "/no-such-folder/x"}), Path("/none-either"), proc=tmp_path)
    try:
        assert list(asyncio.run(poller.poll(0.0))) == []
    finally:
        asyncio.run(poller.stop())


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "hang.c").write_text(HANG)
    library = folder / "hang.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, folder / "hang.c", "-ldl"], check=True)
    return library


def events(daemon: DaemonProcess, name: str) -> list[Frame]:
    return [one for one in daemon.frames() if one.event == name]


def readings(daemon: DaemonProcess, metric: str) -> list[float]:
    return [one.metrics[metric] for one in daemon.frames() if metric in one.metrics]


def children(daemon: DaemonProcess) -> list[Any]:
    assert daemon.process is not None
    found = psutil.Process(daemon.process.pid).children()
    return [one for one in found if any("probe_child" in part for part in one.cmdline())]


def test_promise_F6_a_hung_mount_is_named_once_holds_one_worker_and_holds_nobody_up(
    short_dir: Path, on_shm: Path, shim: Path
) -> None:
    config = "[pollers.disks]\ninterval_seconds = 0.5\nstuck_after_seconds = 1.0\n"
    flag = short_dir / "hangs"
    flag.touch()
    environ = {"LD_PRELOAD": str(shim), "RLHFD_HANG_PATH": str(on_shm), "RLHFD_HANG_WHILE": str(flag)}
    with running_daemon(short_dir, config, environ) as daemon:
        emitter = Emitter(run="ppo", role="trainer", endpoint=daemon.endpoint)
        args = {"ckpt.path": str(on_shm), "ckpt.output_dir": str(on_shm / "out")}
        emitter.event("run_start", args=args)
        (stuck,) = wait_for(lambda: events(daemon, "mount_stuck"))
        assert stuck.fields["mount"] == str(SHM)
        assert stuck.fields["seconds"] >= 1.0
        (own,) = {metric for one in daemon.frames() for metric in one.metrics if metric.endswith("/total_bytes")}
        seen = len(readings(daemon, own))
        wait_for(lambda: len(readings(daemon, own)) >= seen + 4)
        assert readings(daemon, "disk/dev_shm/free_bytes") == []
        pids = [child.pid for child in children(daemon)]
        assert len(pids) == 2
        assert stuck.fields["pid"] in pids
        flag.unlink()
        (back,) = wait_for(lambda: events(daemon, "mount_back"))
        assert back.fields["mount"] == str(SHM)
        wait_for(lambda: readings(daemon, "disk/dev_shm/free_bytes"))
        assert len(events(daemon, "mount_stuck")) == 1
        wait_for(lambda: len(children(daemon)) == 1)
        flag.touch()
        wait_for(lambda: len(events(daemon, "mount_stuck")) == 2)
        left = children(daemon)
        assert daemon.stop() == 0
        emitter.close()
    assert [child for child in left if child.is_running()] == []
