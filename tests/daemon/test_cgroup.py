"""The limit that holds: version 1 and 2, containers, jobs, and what stands for no limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfd_daemon.cgroup import GroupMemory, groups_of, limited, memory, tightest


def files(folder: Path, **content: object) -> Path:
    """Files in ``folder`` by name, with ``_`` for the first dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in content.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{value}\n")
    return folder


def v2(folder: Path, used: int = 100, limit: object = "max", kills: int = 0, cache: int = 0) -> Path:
    return files(
        folder, memory_current=used, memory_max=limit, memory_events=f"low 0\noom 9\noom_kill {kills}",
        memory_stat=f"anon 1\ninactive_file {cache}",
    )  # fmt: skip


def v1(folder: Path, used: int = 100, limit: int = 2**63 - 4096, kills: int = 0, cache: int = 0) -> Path:
    return files(
        folder, memory_usage_in_bytes=used, memory_limit_in_bytes=limit, memory_stat=f"total_inactive_file {cache}",
        memory_oom_control=f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}",
    )  # fmt: skip


def proc(tmp_path: Path, groups: str, *mounts: str) -> Path:
    """A ``/proc`` whose process 7 is in ``groups``, with ``mounts`` as ``root point type options``."""
    for pid in ("7", "self"):
        (tmp_path / "proc" / pid).mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(groups)
    lines = [
        f"30 1 0:1 {root} {point} rw - {kind} cgroup {options}\n"
        for root, point, kind, options in (mount.split() for mount in mounts)
    ]
    (tmp_path / "proc" / "self" / "mountinfo").write_text("".join(lines))
    return tmp_path / "proc"


@pytest.mark.parametrize(
    ("used", "limit", "expected"),
    [
        (100, 1000, (100, 1000)),
        (100, "max", None),
        (100, 2**63 - 1, None),
        (100, 9223372036854771712, None),
        (100, 0, None),
    ],
)
def test_promise_F5_what_stands_for_no_limit_is_no_limit(
    tmp_path: Path, used: int, limit: object, expected: tuple[int, int] | None
) -> None:
    found = memory(v2(tmp_path / "v2", used, limit))
    assert (found and (found.used, found.limit)) == expected
    if isinstance(limit, int):
        found = memory(v1(tmp_path / "v1", used, limit))
        assert (found and (found.used, found.limit)) == expected


def test_page_cache_that_can_be_dropped_is_not_counted(tmp_path: Path) -> None:
    assert memory(v2(tmp_path / "2", 900, 1000, kills=3, cache=600)) == GroupMemory(tmp_path / "2", 300, 1000, 3)
    assert memory(v1(tmp_path / "1", 900, 1000, kills=3, cache=600)) == GroupMemory(tmp_path / "1", 300, 1000, 3)


def test_a_folder_that_is_gone_has_no_memory(tmp_path: Path) -> None:
    assert memory(tmp_path / "gone") is None


def test_the_limit_nearest_to_its_end_counts_not_the_process_s_own(tmp_path: Path) -> None:
    job = v2(tmp_path / "fs" / "job", used=95, limit=100, kills=1)
    v2(job / "step", used=50, limit=100)
    v2(job / "step" / "task", used=50)
    v2(tmp_path / "fs")
    where = proc(tmp_path, "0::/job/step/task\n", f"/ {tmp_path}/fs cgroup2 rw")
    groups = groups_of(7, where)
    assert groups == (job / "step" / "task", job / "step", job, tmp_path / "fs")
    assert tightest(limited(groups)) == GroupMemory(job, 95, 100, 1)
    assert tightest(limited(groups[:1])) is None


def test_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    where = proc(tmp_path, "0::/\n", f"/ {tmp_path}/fs cgroup2 rw")
    assert groups_of(7, where) == (tmp_path / "fs",)


def test_a_container_of_version_1_sees_only_what_is_below_its_group(tmp_path: Path) -> None:
    groups = "9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc/worker\n0::/\n"
    mounts = [f"/docker/abc {tmp_path}/cpu cgroup rw,cpu", f"/docker/abc {tmp_path}/memory cgroup rw,memory"]
    where = proc(tmp_path, groups, *mounts)
    assert groups_of(7, where) == (tmp_path / "memory" / "worker", tmp_path / "memory")


@pytest.mark.parametrize("groups", ["0::/../other\n", "", "garbage\n", "0::relative\n"])
def test_a_group_that_is_not_to_be_seen_from_here_is_unknown(tmp_path: Path, groups: str) -> None:
    assert groups_of(7, proc(tmp_path, groups, f"/ {tmp_path}/fs cgroup2 rw")) == ()


def test_a_process_that_is_gone_is_in_no_group(tmp_path: Path) -> None:
    assert groups_of(8, proc(tmp_path, "0::/\n", f"/ {tmp_path}/fs cgroup2 rw")) == ()


def test_the_groups_of_this_process_are_really_there() -> None:
    for folder in groups_of("self"):
        assert (folder / "cgroup.procs").exists()
