"""A process whose command line hangs is left out; the others are read on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhfd_daemon.probe import Prober
from rlhfd_daemon.title_reader import MAX_STUCK, TitleReader
from support import wait_for


class World:
    """Command lines in files; one in a pipe hangs until it is written to."""

    def __init__(self, proc: Path, patience_seconds: float = 0.3) -> None:
        self.proc = proc
        self.prober = Prober(patience_seconds)
        self.reader = TitleReader(self.prober, proc)

    def add(self, pid: int, title: bytes) -> None:
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "cmdline").write_bytes(title)

    def add_hanging(self, pid: int) -> int:
        """The end to write to."""
        (self.proc / str(pid)).mkdir()
        os.mkfifo(self.proc / str(pid) / "cmdline")
        return os.open(self.proc / str(pid) / "cmdline", os.O_RDWR)

    def read(self, *pids: int) -> dict[int, str]:
        return asyncio.run(self.reader.read(pids))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.prober.stop()


def test_titles_are_read_without_their_padding_and_to_a_bound(tmp_path: Path) -> None:
    world = World(tmp_path, 20.0)
    world.add(1, b"ray::A" + b"\0" * 5000)
    world.add(2, b"x" * 5000)
    world.add(4, b"python\0-c\0pass\0")
    assert world.read(1, 2, 3, 4) == {1: "ray::A", 2: "x" * 256, 3: "", 4: "python"}
    assert world.read() == {}
    world.prober.stop()


def test_who_hangs_is_left_out_until_the_answer_comes(world: World) -> None:
    world.add(1, b"ray::A")
    hanging = world.add_hanging(2)
    try:
        assert world.read(1, 2) == {}
        wait_for(lambda: world.read(1, 2) == {1: "ray::A"})
        os.write(hanging, b"ray::B")
        os.close(hanging)
        hanging = -1
        (world.proc / "2" / "cmdline").rename(world.proc / "2" / "was")
        (world.proc / "2" / "cmdline").write_bytes(b"ray::B")
        wait_for(lambda: world.read(1, 2) == {1: "ray::A", 2: "ray::B"})
        assert not world.prober.stuck
    finally:
        if hanging >= 0:
            os.close(hanging)


def test_no_more_than_a_few_children_hang(world: World) -> None:
    world.add(1, b"ray::A")
    hanging = {pid: world.add_hanging(pid) for pid in range(10, 11 + MAX_STUCK)}
    try:
        wait_for(lambda: world.read(1, *hanging) == {} and len(world.prober.stuck) == MAX_STUCK)
        for _ in range(3):
            assert world.read(1, *hanging) == {}
        assert len(world.prober.stuck) == MAX_STUCK
    finally:
        for pipe in hanging.values():
            os.close(pipe)
