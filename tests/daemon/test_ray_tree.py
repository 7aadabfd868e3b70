"""Raylets and their workers are found in /proc, whenever they come and go."""

from __future__ import annotations

import shutil
from pathlib import Path

from procdir import add_process
from rlhfd_daemon.ray_tree import RayTree


def test_raylets_and_their_children_are_found(tmp_path: Path) -> None:
    add_process(tmp_path, 1, 0, name="init")
    add_process(tmp_path, 10, 1, name="raylet")
    add_process(tmp_path, 11, 10)
    add_process(tmp_path, 12, 11)
    add_process(tmp_path, 13, 10, name="raylet")
    tree = RayTree(tmp_path)
    assert tree.look() == [10, 13]
    assert (tree.children(10), tree.children(11), tree.children(13)) == ([11], [12], [])


def test_a_process_that_becomes_a_raylet_after_it_was_first_seen_is_one(tmp_path: Path) -> None:
    add_process(tmp_path, 10, 0, name="ray")
    tree = RayTree(tmp_path)
    assert tree.look() == []
    add_process(tmp_path, 10, 0, name="raylet")
    assert tree.look() == [10]


def test_a_dead_raylet_is_none(tmp_path: Path) -> None:
    add_process(tmp_path, 10, 0, name="raylet")
    add_process(tmp_path, 11, 10)
    tree = RayTree(tmp_path)
    assert tree.look() == [10]
    add_process(tmp_path, 10, 0, name="raylet", state="Z")
    assert tree.look() == []
    shutil.rmtree(tmp_path / "10")
    add_process(tmp_path, 11, 1)
    assert tree.look() == []
    assert tree.children(10) == []
