"""Processes that are gone, seen on a folder that looks like /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlhfd_daemon.runs import Peer, Runs
from rlhfd_daemon.watch import SILENT_SECONDS, process_exists, vanished
from wire import frame


@pytest.mark.parametrize(
    ("stat", "exists"),
    [
        (b"7 (python) R 1 7 7 0 -1 4194304", True),
        (b"7 (python) S 1 7 7", True),
        (b"7 (python) D 1 7 7", True),
        (b"7 (python) T 1 7 7", True),
        (b"7 (python) Z 1 7 7", False),
        (b"7 (python) X 1 7 7", False),
        (b"7 (ray::Actor(x) Z) S) R 1 7 7", True),
        (b"7 (a) R (b) Z 1 7 7", False),
        (b"7 (\xff\xfe) S 1", True),
        (b"7 (python)", False),
        (b"", False),
    ],
)
def test_a_process_exists_unless_it_is_absent_or_dead(stat: bytes, exists: bool, tmp_path: Path) -> None:
    assert not process_exists(7, tmp_path)
    (tmp_path / "7").mkdir()
    assert not process_exists(7, tmp_path)
    (tmp_path / "7" / "stat").write_bytes(stat)
    assert process_exists(7, tmp_path) is exists


def test_we_exist_and_a_dead_child_does_not() -> None:
    assert process_exists(os.getpid())
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert not process_exists(child), "a zombie"
    os.waitpid(child, 0)
    assert not process_exists(child)


def test_a_stream_vanishes_when_it_is_silent_and_its_process_is_gone() -> None:
    runs = Runs()
    for name, pid, seen in (("gone", 5, 0.0), ("alive", 6, 0.0), ("just_spoke", 5, 9.0), ("unknown_pid", -1, 0.0)):
        runs.admit(frame(1, stream=name, pid=5), Peer(0, pid), seen)
    runs.admit(frame(1, stream="over"), Peer(0, 5), 0.0)
    runs.end("over", "process_stop")
    assert [stream.stream for stream in vanished(runs, 10.0, exists=lambda pid: pid == 6)] == ["gone"]
    assert not list(vanished(runs, SILENT_SECONDS, exists=lambda pid: False)), "three seconds are not over"
