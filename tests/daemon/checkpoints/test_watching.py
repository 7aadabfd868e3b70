"""What appears, is complete, is broken and vanishes: by real scans in a child process, with inotify and without."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from checkpoint_trees import deepspeed, export, look, metric, ppo, safetensors, torch_archive, under, write
from frozen_mount import frozen_mount
from rlhfd_daemon.checkpoints.completeness import Known, Limits, State
from rlhfd_daemon.checkpoints.inotify import Changes
from rlhfd_daemon.checkpoints.layout import Layout
from rlhfd_daemon.checkpoints.roots import Root
from rlhfd_daemon.checkpoints.scan_child import Scans
from rlhfd_daemon.checkpoints.tracking import Change, News, Tracked, track
from rlhfd_daemon.checkpoints.watching import CheckpointWatch
from support import wait_for

LIMITS = Limits(settle_seconds=1.0, broken_seconds=5.0)
SLOW = 1e6  # seconds from one scan to the next: only inotify brings news


class Watching:
    """A watch in an event loop of its own; keeps all changes."""

    def __init__(self, *paths: Path, **options: Any) -> None:
        self.roots = [Root(str(path)) for path in paths]
        options = {"interval_seconds": 0.1, "busy_seconds": 0.1, "limits": LIMITS, "patience_seconds": 30.0, **options}
        self.watch = CheckpointWatch(**options)
        self.changes: list[Change] = []
        self.known = Known()
        self._loop = asyncio.new_event_loop()

    def look(self) -> list[Change]:
        """Look once; all changes until now."""
        roots, said = self.roots, self.known
        self.changes += self._loop.run_until_complete(self.watch.look(roots, time.time(), lambda *_: said))
        return self.changes

    def wait(self, news: News, path: str, timeout: float = 30.0) -> Change:
        """Look until this is said."""

        def said() -> list[Change]:
            return [one for one in self.look() if one.news is news and one.description.path == path]

        return wait_for(said, timeout)[-1]

    def told(self) -> list[tuple[str, str]]:
        return [(one.news.value, one.description.path) for one in self.changes]

    def stop(self) -> None:
        self.watch.stop()
        self._loop.close()


@contextmanager
def watching(*paths: Path, **options: Any) -> Iterator[Watching]:
    one = Watching(*paths, **options)
    try:
        yield one
    finally:
        one.stop()


def children() -> list[psutil.Process]:
    found = []
    for one in psutil.Process().children():
        with suppress(psutil.Error):
            if any("scan_child" in part for part in one.cmdline()):
                found.append(one)
    return found


def test_a_checkpoint_appears_is_complete_and_rotated_away(tmp_path: Path) -> None:
    root = tmp_path / "ckpt"
    with watching(root) as one:
        assert one.look() == []  # there is no such folder yet
        write(root, under("_actor/global_step1", deepspeed(2)))
        one.wait(News.APPEARED, "_actor/global_step1")
        assert one.watch.tracked[str(root)].states == {"_actor/global_step1": State.IN_PROGRESS}
        write(root, {"_actor/global_step1/metric.json": metric()})
        complete = one.wait(News.COMPLETE, "_actor/global_step1")
        assert complete.description.role == "actor"
        write(root, ppo(2))
        one.wait(News.COMPLETE, "_critic/global_step2")
        shutil.rmtree(root / "_actor" / "global_step1")
        vanished = one.wait(News.VANISHED, "_actor/global_step1")
        assert "as rotation does; 1 others are there" in vanished.verdict.reason
        assert "before it was seen complete" not in vanished.verdict.reason
        assert not [change for change in one.changes if change.news is News.BROKEN]


def test_each_thing_is_said_once(tmp_path: Path) -> None:
    write(tmp_path, ppo(1))
    with watching(tmp_path) as one:
        one.wait(News.COMPLETE, "global_step1_hf")
        for _ in range(20):
            one.look()
            time.sleep(0.02)
        assert len(one.told()) == len(set(one.told())) == 6


def test_inotify_brings_news_without_waiting_for_the_next_scan(tmp_path: Path) -> None:
    write(tmp_path, {**ppo(1), "notes.txt": b"x"}, age_seconds=100)
    with watching(tmp_path, interval_seconds=SLOW, busy_seconds=SLOW) as one:
        one.wait(News.COMPLETE, "_actor/global_step1")
        # In a folder that is watched, in a new one below it, and the removal of both.
        write(tmp_path, under("_actor/global_step2", {**deepspeed(2), "metric.json": metric()}))
        one.wait(News.COMPLETE, "_actor/global_step2")
        shutil.rmtree(tmp_path / "_actor" / "global_step2")
        one.wait(News.VANISHED, "_actor/global_step2")
        shutil.rmtree(tmp_path / "_critic")
        one.wait(News.VANISHED, "_critic/global_step1")


def test_without_inotify_the_interval_brings_it(tmp_path: Path) -> None:
    scans = Scans(str(tmp_path), watched=False)
    first = scans.answer(None, "", hint=False)
    assert not first["layout"]["checkpoints"]
    write(tmp_path, under("global_step1", deepspeed(2)))
    assert scans.answer(None, first["digest"], hint=True) == {"digest": first["digest"]}
    second = scans.answer(None, first["digest"], hint=False)
    assert [one["path"] for one in second["layout"]["checkpoints"]] == ["global_step1"]
    assert scans.answer(None, second["digest"], hint=False) == {"scanned": True, "digest": second["digest"]}


def test_with_inotify_nothing_is_scanned_as_long_as_nothing_happens(tmp_path: Path) -> None:
    write(tmp_path, under("global_step1", deepspeed(2)))
    scans = Scans(str(tmp_path))
    known = scans.answer(None, "", hint=False)["digest"]
    assert scans.answer(None, known, hint=True)["scanned"]  # the first scan was not watched
    assert wait_for(lambda: "scanned" not in scans.answer(None, known, hint=True))
    (tmp_path / "global_step1" / "metric.json").write_bytes(metric())
    assert scans.answer(None, known, hint=True)["scanned"]


def test_inotify_says_what_happened_in_the_folders_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with Changes() as changes:
        assert changes.watch(str(tmp_path / "in"), [str(tmp_path / "in")])
        assert not changes.any()
        (tmp_path / "out" / "x").touch()
        list((tmp_path / "in").iterdir())
        assert not changes.any()
        (tmp_path / "in" / "x").touch()
        assert changes.any()
        assert not changes.any()
        assert not changes.watch("", [str(tmp_path / "link")])  # a link below the root
        assert not changes.watch("", [str(tmp_path / "none")])
        changes.any()
        (tmp_path / "in" / "y").touch()
        assert not changes.any()  # no longer watched


def test_one_that_lacks_a_file_is_broken_after_a_while(tmp_path: Path) -> None:
    files = {name: content for name, content in deepspeed(2, 4).items() if "rank_2_" not in name}
    write(tmp_path, under("global_step1", files))
    with watching(tmp_path) as one:
        broken = one.wait(News.BROKEN, "global_step1")
        assert broken.age_seconds >= LIMITS.broken_seconds
        assert broken.verdict.missing is not None
        assert broken.verdict.missing.names == ("bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt",)
        write(
            tmp_path, under("global_step1", {**deepspeed(2, 4), "metric.json": metric()})
        )  # saved anew after a resume
        one.wait(News.COMPLETE, "global_step1")


WRITER = """
import sys
with open(sys.argv[1], "wb") as file:
    content = bytes.fromhex(sys.argv[2])
    file.write(content[: len(content) // 2])
    file.flush()
    print("half", flush=True)
    sys.stdin.read()
    file.write(content[len(content) // 2 :])
"""


def test_a_process_that_is_killed_in_the_middle_of_writing_leaves_a_broken_one(tmp_path: Path) -> None:
    write(tmp_path, under("global_step1", deepspeed(2, 2)))
    last = tmp_path / "global_step1" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    last.unlink()
    command = [sys.executable, "-c", WRITER, str(last), torch_archive().hex()]
    with watching(tmp_path, limits=Limits(1.0, 1000.0)) as one:
        one.known = Known(world_size=2, alive=True)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"half\n"
            one.wait(News.APPEARED, "global_step1")
            writer.kill()
        one.known = Known(world_size=2, alive=False)
        broken = one.wait(News.BROKEN, "global_step1")
        assert broken.verdict.cut_off == (last.name,)
        assert "the processes that wrote it are gone" in broken.verdict.reason


def test_a_writer_that_is_slow_is_not_called_broken_while_it_saves(tmp_path: Path) -> None:
    write(tmp_path, under("global_step1", deepspeed(3, 2)))
    (tmp_path / "global_step1" / "zero_pp_rank_1_mp_rank_00_model_states.pt").write_bytes(torch_archive()[:50])
    with watching(tmp_path, limits=Limits(0.0, 0.0)) as one:
        one.known = Known(saving_since=time.time(), world_size=2)
        for _ in range(20):
            one.look()
            time.sleep(0.02)
        assert one.told() == [("appeared", "global_step1")]
        one.known = Known(saved_at=time.time(), world_size=2)
        one.wait(News.BROKEN, "global_step1")


def test_promise_E4_a_rotation_that_never_stops_raises_no_alarm(tmp_path: Path) -> None:
    write(tmp_path, under("global_step0", {**deepspeed(2, 2), "metric.json": metric()}))
    stop = threading.Event()

    def rotate() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            write(tmp_path, under(f"global_step{step}", {**deepspeed(2, 2), "metric.json": metric()}))
            shutil.rmtree(tmp_path / f"global_step{step - 1}")
            time.sleep(0.005)

    thread = threading.Thread(target=rotate)
    thread.start()
    try:
        with watching(tmp_path, interval_seconds=0.0, busy_seconds=0.0) as one:
            wait_for(lambda: len([change for change in one.look() if change.news is News.VANISHED]) > 40, 60)
            stop.set()
            thread.join(30)
            wait_for(lambda: one.look() and not one.watch.tracked[str(tmp_path)].unsettled)
            news = one.told()
    finally:
        stop.set()
        thread.join(30)
    assert "broken" not in {said for said, _ in news}
    appeared = [path for said, path in news if said == "appeared"]
    assert len(appeared) == len(set(appeared))
    assert {path for said, path in news if said == "vanished"} == set(appeared[:-1])


def test_a_mount_that_hangs_holds_up_only_its_own_roots(tmp_path: Path) -> None:
    alive = write(tmp_path / "alive", ppo(1))
    with frozen_mount(tmp_path / "dead") as dead, watching(dead / "ckpt", alive, patience_seconds=0.5) as one:
        one.wait(News.COMPLETE, "_actor/global_step1")
        wait_for(lambda: one.look() and one.watch.stuck)
        assert list(one.watch.stuck) == [str(dead)]
        write(alive, under("_actor/global_step2", {**deepspeed(2), "metric.json": metric()}))
        one.wait(News.COMPLETE, "_actor/global_step2")
        assert len(children()) == 2
        started = time.monotonic()
        one.stop()
        assert time.monotonic() - started < 60  # the mount hangs for good
    wait_for(lambda: not children())


SLOW_CHILD = """
import pathlib, sys, time
from rlhfd_daemon.checkpoints import scan_child
answer = scan_child.Scans.answer
def slow(self, *args, **options):
    while pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.01)
    return answer(self, *args, **options)
scan_child.Scans.answer = slow
scan_child.main()
"""


def test_an_answer_that_comes_late_is_as_old_as_its_question(tmp_path: Path) -> None:
    root, hold = write(tmp_path / "root", ppo(1)), tmp_path / "hold"
    hold.touch()
    command = (sys.executable, "-c", SLOW_CHILD, str(hold))
    watch = CheckpointWatch(command=command, patience_seconds=0.1, limits=LIMITS)

    async def late() -> list[Change]:
        assert await watch.look([Root(str(root))], 1000.0) == []
        assert watch.stuck
        hold.unlink()
        changes: list[Change] = []
        deadline = time.monotonic() + 30
        while not changes and time.monotonic() < deadline:
            changes = await watch.look([Root(str(root))], 5000.0)
        return changes

    try:
        assert {change.at for change in asyncio.run(late())} == {1000.0}
        assert not watch.stuck
    finally:
        watch.stop()


def test_a_child_that_is_killed_is_replaced_and_nothing_is_said_twice(tmp_path: Path) -> None:
    write(tmp_path, ppo(1))
    with watching(tmp_path) as one:
        one.wait(News.COMPLETE, "global_step1_hf")
        before = list(one.told())
        (child,) = children()
        os.kill(child.pid, signal.SIGKILL)
        wait_for(lambda: one.look() and [new for new in children() if new.pid != child.pid])
        write(tmp_path, under("_actor/global_step2", {**deepspeed(2), "metric.json": metric()}))
        one.wait(News.COMPLETE, "_actor/global_step2")
        assert one.told()[: len(before)] == before
        assert len(one.told()) == len(set(one.told()))


def test_a_root_that_cannot_be_read_is_a_problem_and_its_checkpoints_do_not_vanish(tmp_path: Path) -> None:
    root = write(tmp_path / "root", ppo(1))
    with watching(root) as one:
        one.wait(News.COMPLETE, "_actor/global_step1")
        root.rename(tmp_path / "away")
        os.mkfifo(root)
        wait_for(lambda: one.look() and one.watch.problems)
        assert "neither a folder nor a regular file" in one.watch.problems[str(root)]
        root.unlink()
        (tmp_path / "away").rename(root)
        wait_for(lambda: one.look() and not one.watch.problems)
        assert "vanished" not in {said for said, _ in one.told()}
        shutil.rmtree(root)
        one.wait(News.VANISHED, "_actor/global_step1")


def test_a_root_that_is_a_single_file_is_watched_as_one(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors()[:-1])
    with watching(file) as one:
        one.wait(News.BROKEN, "")
        file.write_bytes(safetensors())
        one.wait(News.COMPLETE, "")


def tracked(layout: Layout, before: Tracked | None = None, now: float = 0.0, known: Known = Known()) -> Any:
    return track(before or Tracked("/root"), layout, now, lambda _: known, LIMITS)


def said(changes: list[Change]) -> list[tuple[str, str]]:
    return [(one.news.value, one.description.path) for one in changes]


def test_one_written_anew_in_its_place_is_told_again(tmp_path: Path) -> None:
    files = under("global_step1", {**deepspeed(2), "metric.json": metric()})
    first, changes = tracked(look(write(tmp_path, files, age_seconds=100)))
    assert said(changes) == [("appeared", "global_step1"), ("complete", "global_step1")]
    write(tmp_path, files)  # in the same folder: a resumed run
    again, changes = tracked(look(tmp_path), first, 1.0)
    assert said(changes) == [("complete", "global_step1")]
    (tmp_path / "global_step1" / "mp_rank_00_model_states.pt").write_bytes(torch_archive()[:20])
    half, changes = tracked(look(tmp_path), again, 2.0)
    assert said(changes) == [("appeared", "global_step1")]
    (tmp_path / "global_step1").rename(tmp_path / "old")
    write(tmp_path, files)
    shutil.rmtree(tmp_path / "old")
    _, changes = tracked(look(tmp_path), half, 3.0)
    assert said(changes) == [("vanished", "global_step1"), ("appeared", "global_step1"), ("complete", "global_step1")]


def test_what_is_out_of_sight_has_not_vanished(tmp_path: Path) -> None:
    before, _ = tracked(look(write(tmp_path, under("global_step1", {**deepspeed(2), "metric.json": metric()}))))
    after, changes = tracked(Layout(problem="more entries than are looked at"), before, 1.0)
    assert changes == []
    assert after.states == {"global_step1": State.COMPLETE}
    _, changes = tracked(Layout(), after, 2.0)
    assert said(changes) == [("vanished", "global_step1")]


def test_one_that_is_being_deleted_was_complete_and_does_not_appear_anew(tmp_path: Path) -> None:
    files = under("global_step1", {**deepspeed(2), "metric.json": metric()})
    before, _ = tracked(look(write(tmp_path, files)))
    (tmp_path / "global_step1" / "mp_rank_00_model_states.pt").unlink()
    before, changes = tracked(look(tmp_path), before, 1.0)
    assert changes == []
    assert before.states == {"global_step1": State.IN_PROGRESS}
    _, (change,) = tracked(Layout(), before, 2.0)
    assert change.verdict.reason == "was deleted"


def test_one_that_vanishes_unfinished_says_so(tmp_path: Path) -> None:
    before, _ = tracked(look(write(tmp_path, under("global_step1_hf", export()))))
    _, (change,) = tracked(Layout(), before, 5.0)
    assert change.verdict.reason == "was deleted before it was seen complete"
    assert change.age_seconds == 5.0
