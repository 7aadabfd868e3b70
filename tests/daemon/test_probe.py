"""A question that hangs costs one child and some patience; everybody else gets answers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlhfd_daemon.probe import Prober, Stuck
from support import wait_for


@contextmanager
def prober(patience_seconds: float = 0.2) -> Iterator[Prober]:
    one = Prober(patience_seconds)
    try:
        yield one
    finally:
        one.stop()


def ask(one: Prober, key: str, *paths: Path, **question: Any) -> Any:
    return asyncio.run(one.ask(key, {"read": [str(path) for path in paths], **question}))


def children() -> list[psutil.Process]:
    """The probing children of this process that live."""
    found = []
    for one in psutil.Process().children():
        with suppress(psutil.Error):  # gone in the meantime, or dead and not awaited yet
            if any("probe_child" in part for part in one.cmdline()):
                found.append(one)
    return found


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """Opening it to read waits until somebody writes."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_files_are_read_and_failures_come_with_their_number(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("12\n")
    with prober(60) as one:
        assert ask(one, "x", tmp_path / "a", tmp_path / "none") == {
            str(tmp_path / "a"): "12\n",
            str(tmp_path / "none"): 2,
        }


def test_a_statvfs_is_of_the_nearest_folder_that_is_there_but_not_above_its_mount(tmp_path: Path) -> None:
    here, later, file = str(tmp_path), str(tmp_path / "not" / "yet"), tmp_path / "file"
    file.write_text("")
    expected = os.statvfs(tmp_path)
    with prober(60) as one:
        answer = ask(one, "x", statvfs=[here, later, str(file / "below")], top="/")
        assert ask(one, "x", statvfs=[later], top=later) == {later: 2}
    assert [answer[path][0] for path in answer] == [here, here, str(file)]
    assert answer[later][1] == expected.f_blocks
    assert answer[later][3:5] == [expected.f_frsize, expected.f_files]


def test_one_child_answers_everybody(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    with prober(60) as one:
        for key in "xyz":
            assert ask(one, key, tmp_path / "a") == {str(tmp_path / "a"): "1"}
        assert len(children()) == 1
    wait_for(lambda: children() == [])


def test_promise_F6_a_question_that_hangs_costs_one_child_and_others_get_answers(tmp_path: Path, hanging: Path) -> None:
    (tmp_path / "a").write_text("1")
    with prober() as one:
        first = ask(one, "hung", hanging)
        assert isinstance(first, Stuck)
        for _ in range(5):
            again = ask(one, "hung", hanging)
            assert isinstance(again, Stuck)
            assert again.pid == first.pid
            assert again.seconds > first.seconds
            wait_for(lambda: ask(one, "other", tmp_path / "a") == {str(tmp_path / "a"): "1"})
        assert one.stuck == {"hung"}
        wait_for(lambda: len(children()) == 2)
    wait_for(lambda: children() == [])


def test_promise_F6_the_late_answer_is_the_answer(tmp_path: Path, hanging: Path) -> None:
    with prober() as one:
        assert isinstance(ask(one, "hung", hanging), Stuck)
        hanging.write_text("back")
        assert wait_for(
            lambda: [answer for answer in [ask(one, "hung")] if answer != {} and not isinstance(answer, Stuck)]
        ) == [{str(hanging): "back"}]
        assert one.stuck == set()
        wait_for(lambda: ask(one, "hung", tmp_path / "none") == {str(tmp_path / "none"): 2})
        wait_for(lambda: len(children()) == 1)


def test_a_child_that_was_killed_is_replaced(tmp_path: Path) -> None:
    with prober(60) as one:
        ask(one, "x", tmp_path / "none")
        (child,) = children()
        child.send_signal(signal.SIGKILL)
        with pytest.raises(EOFError):
            ask(one, "x", tmp_path / "none")
        assert ask(one, "x", tmp_path / "none") == {str(tmp_path / "none"): 2}


def test_a_stuck_child_that_was_killed_is_not_waited_for(tmp_path: Path, hanging: Path) -> None:
    with prober() as one:
        stuck = ask(one, "hung", hanging)
        os.kill(stuck.pid, signal.SIGKILL)
        with pytest.raises(EOFError):
            wait_for(lambda: not isinstance(ask(one, "hung", hanging), Stuck))
        assert one.stuck == set()


def test_a_question_that_was_cancelled_does_not_answer_the_next(tmp_path: Path, hanging: Path) -> None:
    async def cancelled(one: Prober) -> None:
        task = asyncio.create_task(one.ask("hung", {"read": [str(hanging)]}))
        while not children():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with prober(60) as one:
        asyncio.run(cancelled(one))
        assert ask(one, "x", tmp_path / "none") == {str(tmp_path / "none"): 2}
        wait_for(lambda: len(children()) == 1)


def test_the_child_ends_with_the_daemon(tmp_path: Path) -> None:
    """Its stdin is closed then, whatever ended the daemon."""
    with prober(60) as one:
        ask(one, "x", tmp_path / "none")
        (child,) = children()
        assert one._idle is not None
        one._idle._stdin.close()
        wait_for(lambda: child.status() == psutil.STATUS_ZOMBIE)
