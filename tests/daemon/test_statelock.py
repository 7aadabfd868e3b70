"""The state lock: one holder, named to the second one, given back however the holder ends."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rlhfd_daemon.errors import StateError, StateLocked
from rlhfd_daemon.statelock import StateLock


def hold_elsewhere(state_dir: Path) -> subprocess.Popen[str]:
    code = (
        "import sys; from rlhfd_daemon.statelock import StateLock; lock = StateLock(sys.argv[1]); lock.acquire();"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(state_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def end(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.communicate()


def test_the_directory_is_created_private(tmp_path: Path) -> None:
    with StateLock(tmp_path / "state"):
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
        assert (tmp_path / "state" / "lock").read_text() == f"{os.getpid()}\n"


def test_promise_C13_the_second_process_is_told_pid_and_path(tmp_path: Path) -> None:
    holder = hold_elsewhere(tmp_path)
    try:
        with pytest.raises(StateLocked) as caught:
            StateLock(tmp_path).acquire()
    finally:
        end(holder)
    assert caught.value.pid == holder.pid
    assert str(tmp_path) in str(caught.value)
    assert str(holder.pid) in str(caught.value)
    assert caught.value.exit_code == 75


def test_a_killed_holder_leaves_the_lock_free(tmp_path: Path) -> None:
    end(hold_elsewhere(tmp_path))
    with StateLock(tmp_path):
        pass


def test_a_failed_try_does_not_disturb_the_holder(tmp_path: Path) -> None:
    with StateLock(tmp_path):
        for _ in range(2):
            with pytest.raises(StateLocked):
                StateLock(tmp_path).acquire()
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_release_is_safe_to_call_twice(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    lock.acquire()
    lock.release()
    lock.release()
    with StateLock(tmp_path):
        pass


def test_a_state_directory_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StateError, match="cannot be used as state directory"):
        StateLock(tmp_path / "state").acquire()
