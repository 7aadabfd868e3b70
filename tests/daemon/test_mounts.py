"""Which mount a path lies on, and that a mount that may hang is not touched to find out."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_daemon.mounts import Mount, device_names, mount_of, parse_mountinfo, resolve
from rlhfd_daemon.procfs import read_bytes

MOUNTINFO = rb"""27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:40 / /mnt/my\040lustre rw shared:7 master:1 - lustre 10.0.0.1@tcp:/fs rw
31 27 0:41 /docker/abc /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory
32 27 0:42 / /data rw - ext4 /dev/vdb rw
33 27 0:43 / /data rw - nfs4 server:/export rw,hard
broken line
"""
MOUNTS = (Mount("/", "/", "ext4"), Mount("/mnt/hung", "/", "nfs4"), Mount("/srv", "/", "xfs"))


def test_mounts_are_read_in_order_with_blanks_and_options() -> None:
    mounts = parse_mountinfo(MOUNTINFO)
    assert [(mount.point, mount.type) for mount in mounts] == [
        ("/", "ext4"), ("/mnt/my lustre", "lustre"), ("/sys/fs/cgroup/memory", "cgroup"), ("/data", "ext4"),
        ("/data", "nfs4"),
    ]  # fmt: skip
    assert (mounts[2].root, mounts[2].options) == ("/docker/abc", ("rw", "memory"))
    assert [mount.local for mount in mounts] == [True, False, False, True, False]


@given(content=st.binary(max_size=300))
def test_no_content_breaks_the_parser(content: bytes) -> None:
    parse_mountinfo(content)


def test_the_mounts_of_this_machine_are_those_that_psutil_sees() -> None:
    found = {mount.point for mount in parse_mountinfo(read_bytes("/proc/self/mountinfo"))}
    assert {partition.mountpoint for partition in psutil.disk_partitions(all=True)} == found


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/home/x", "/", "ext4"),
        ("/data", "/data", "nfs4"),
        ("/data/ckpt/1", "/data", "nfs4"),
        ("/database", "/", "ext4"),
        ("/mnt/my lustre/x", "/mnt/my lustre", "lustre"),
    ],
)
def test_a_path_is_on_the_deepest_mount_above_it_and_the_latest_there(path: str, point: str, kind: str) -> None:
    mount = mount_of(path, parse_mountinfo(MOUNTINFO))
    assert mount is not None
    assert (mount.point, mount.type) == (point, kind)


def test_without_mounts_nothing_is_known() -> None:
    assert mount_of("/x", ()) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/me/run", "/home/me/run"),
        ("/home//me/./run/", "/home/me/run"),
        ("/home/me/../you", "/home/you"),
        ("/ckpt/step1", "/mnt/hung/ckpt/step1"),
        ("/ckpt/../x", "/mnt/hung/x"),
        ("/home/link/x", "/home/me/x"),
        ("/srv/up/x", "/home/me/x"),
        ("/mnt/hung/any/../link", "/mnt/hung/link"),
    ],
)
def test_links_are_followed_but_never_on_a_mount_that_may_hang(path: str, expected: str) -> None:
    links = {"/ckpt": "/mnt/hung/ckpt", "/home/link": "me", "/srv/up": "../home/me"}

    def readlink(asked: str) -> str:
        assert not asked.startswith("/mnt/hung"), "touched"
        if asked in links:
            return links[asked]
        raise OSError

    assert resolve(path, MOUNTS, readlink) == expected


def test_links_in_a_circle_end() -> None:
    assert resolve("/a/x", MOUNTS, {"/a": "/b", "/b": "/a"}.__getitem__).endswith("/x")


def test_real_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    mounts = parse_mountinfo(read_bytes("/proc/self/mountinfo"))
    found = resolve(str(tmp_path / "link" / "later"), mounts)
    assert found == os.path.realpath(tmp_path / "link" / "later")


@pytest.mark.parametrize(
    ("points", "names"),
    [
        (["/", "/data/ckpt"], ["root", "data_ckpt"]),
        (["/data/ckpt", "/data_ckpt"], ["data_ckpt", "data_ckpt-2"]),
        (["/", "/root"], ["root", "root-2"]),
        (["/mnt/a b/ü"], ["mnt_a_b__"]),
        (["/" + "x" * 200], ["x" * 64]),
    ],
)
def test_devices_have_readable_names_without_slashes_and_no_two_alike(points: list[str], names: list[str]) -> None:
    assert list(device_names(points).values()) == names
