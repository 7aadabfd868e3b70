"""The states of a process and of everything below it, by what real kernels do and by a made-up ``/proc``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from procdir import add_process
from rlhfd_daemon.process_state import ProcessState, state_letter, states
from rlhfd_daemon.process_tree import ProcessTree
from support import wait_for

# Each process starts the next and waits for it; the last one sleeps.
FAMILY = """
import subprocess, sys, time
depth = int(sys.argv[1])
if depth:
    subprocess.run([sys.executable, "-c", sys.argv[2], str(depth - 1), sys.argv[2]])
else:
    time.sleep(600)
"""


@contextmanager
def family(depth: int) -> Iterator[list[int]]:
    """The pids of a process, its child, its child's child and so on."""
    first = subprocess.Popen([sys.executable, "-c", FAMILY, str(depth), FAMILY])
    parent = psutil.Process(first.pid)
    members = [parent]
    try:
        wait_for(lambda: len(parent.children(recursive=True)) == depth)
        members = sorted([parent, *parent.children(recursive=True)], key=lambda one: one.create_time())
        yield [one.pid for one in members]
    finally:
        for one in reversed(members):
            one.kill()
        first.wait(10)


def test_a_stopped_child_of_a_child_is_found_by_its_pid() -> None:
    with family(2) as (first, second, third):
        os.kill(third, signal.SIGSTOP)
        wait_for(lambda: state_letter(third) == "T")
        found = {one.pid: one for one in states(first)}
        assert states(first)[0].pid == first
        assert set(found) == {first, second, third}
        assert (found[third].state, found[third].parent, found[second].parent) == ("T", second, first)
        assert {found[pid].state for pid in (first, second)} <= set("SRD")
        os.kill(third, signal.SIGCONT)
        wait_for(lambda: state_letter(third) == "S")


def test_a_child_that_ended_and_was_not_awaited_is_a_zombie() -> None:
    child = subprocess.Popen(["true"])
    wait_for(lambda: state_letter(child.pid) == "Z")
    assert ProcessState(child.pid, "true", "Z", os.getpid()) in states(os.getpid())
    child.wait(10)
    assert state_letter(child.pid) is None
    assert states(child.pid) == ()


def test_what_is_found_here_is_what_psutil_finds() -> None:
    with family(3) as pids:
        expected = [(pid, psutil.Process(pid).name()[:15], psutil.Process(pid).ppid()) for pid in pids]
        assert sorted((one.pid, one.name, one.parent) for one in states(pids[0])) == sorted(expected)


@pytest.mark.parametrize("listed", [True, False], ids=["kernel lists children", "kernel lists none"])
def test_descendants_are_found_with_and_without_the_kernel_s_list_of_children(tmp_path: Path, listed: bool) -> None:
    family = {10: (20, 21), 20: (30,), 21: (), 30: (), 99: ()}
    parents = {10: 1, 20: 10, 21: 10, 30: 20, 99: 1}
    for pid, children in family.items():
        name = "VLLM (core) :0" if pid == 30 else "ray::Actor"
        state = "T" if pid == 30 else "S"
        add_process(tmp_path, pid, parents[pid], children=children if listed else None, name=name, state=state)
    found = states(10, tmp_path)
    assert found[0].pid == 10
    assert sorted(found)[1:] == [
        (20, "ray::Actor", "S", 10), (21, "ray::Actor", "S", 10), (30, "VLLM (core) :0", "T", 20),
    ]  # fmt: skip


def test_a_listed_child_that_is_gone_is_left_out(tmp_path: Path) -> None:
    add_process(tmp_path, 10, children=(20,))
    assert [one.pid for one in states(10, tmp_path)] == [10]


def test_a_tree_notices_what_comes_goes_and_is_adopted(tmp_path: Path) -> None:
    tree = ProcessTree(tmp_path)
    for pid, parent in ((1, 0), (10, 1), (20, 10), (30, 20)):
        add_process(tmp_path, pid, parent)
    tree.look()
    assert tree.descendants(10) == [20, 30]
    (tmp_path / "20" / "stat").unlink()
    (tmp_path / "20").rmdir()
    add_process(tmp_path, 30, 1)
    add_process(tmp_path, 40, 10)
    tree.look()
    assert tree.descendants(10) == [40]
    assert sorted(tree.descendants(1)) == [10, 30, 40]


def test_a_tree_leaves_out_whole_branches(tmp_path: Path) -> None:
    tree = ProcessTree(tmp_path)
    for pid, parent in ((10, 1), (20, 10), (30, 20), (21, 10), (31, 21)):
        add_process(tmp_path, pid, parent)
    tree.look()
    assert sorted(tree.descendants(10, without=(20,))) == [21, 31]


def test_a_reused_pid_is_noticed_in_the_end(tmp_path: Path) -> None:
    tree = ProcessTree(tmp_path)
    for pid, parent in ((1, 0), (10, 1), (20, 10)):
        add_process(tmp_path, pid, parent)
    tree.look()
    add_process(tmp_path, 20, 1)
    for _ in range(60):
        tree.look()
    assert tree.descendants(10) == []


def test_parents_in_a_circle_do_not_hold_it_up(tmp_path: Path) -> None:
    """What a scan can see while pids are being reused."""
    tree = ProcessTree(tmp_path)
    for pid, parent in ((10, 20), (20, 10)):
        add_process(tmp_path, pid, parent)
    tree.look()
    assert tree.descendants(10) == [20]
