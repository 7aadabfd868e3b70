"""The files of steps: one line a step, nothing twice after a restart, nothing outside the folder, bounded."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorded import Feed
from rlhfd_daemon.config import StepsConfig
from rlhfd_daemon.outlets import steps as module
from rlhfd_daemon.outlets.step_files import CURRENT, PREVIOUS, StepFile, folder_of, forget_oldest
from rlhfd_daemon.outlets.steps import Steps, line
from rlhfd_daemon.runs import DAEMON_ROLE, Runs
from support import wait_for

TRAINER = {"role": "PPOTrainer", "rank": None}
POLICY = {"role": "PolicyModelActor"}


class Written:
    """A daemon's steps; another one on the same folder is its restart. The clock is the test's."""

    def __init__(self, root: Path, config: StepsConfig | None = None) -> None:
        self.runs = Runs()
        self.steps = Steps(config or StepsConfig(), root, self.runs)
        self.feed = Feed(self.runs, self.steps)
        self.root = root

    def flush(self, now: float, *, is_last: bool = False) -> None:
        asyncio.run(self.steps.flush(now, is_last=is_last))

    def logs(self, at: float, step: int, value: float = 1.0, **changes: Any) -> None:
        """The trainer's logs of a step."""
        self.feed(at, step=step, metrics={"train/kl": value}, **{**TRAINER, **changes})

    def begin(self, at: float, step: int) -> None:
        """A phase of a step begins."""
        self.feed(at, kind="event", event="phase_begin", step=step, fields={"phase": "x", "id": step}, **TRAINER)

    def trainer(self, at: float) -> None:
        """The trainer introduces itself."""
        self.feed(at, kind="event", event="run_start", fields={"trainer": "PPOTrainer"}, **TRAINER)

    def rows(self, run: str = "r", boot: str = "b", name: str = CURRENT) -> list[dict[str, Any]]:
        path = folder_of(self.root, run, boot) / name
        return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def now() -> float:
    """After the start of whatever a test makes: frames are live, not read again."""
    return time.time() + 100.0


def test_a_line_holds_what_all_roles_say_of_a_step(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path)
    written.feed(now, step=1, metrics={"rlhfd/advantage_mean": 0.5}, **POLICY)
    written.feed(now, step=1, metrics={"rlhfd/value_mean": 0.25}, role="CriticModelActor")
    written.logs(now + 1, 1, value=0.125)
    written.begin(now + 1, 2)
    written.flush(now + 2.5)
    assert written.rows() == [
        {
            "step": 1, "time": round(now + 1, 3), "train/kl": 0.125, "rlhfd/advantage_mean": 0.5,
            "rlhfd/value_mean": 0.25,
        }
    ]  # fmt: skip
    assert written.steps.path("r", "b") == tmp_path / "r" / "b" / "steps.jsonl"
    assert written.steps.path("r", "other") is None


@pytest.mark.parametrize(
    ("seconds", "next_step", "expected"), [(0.5, True, 0), (1.5, True, 1), (1.5, False, 0), (5.5, False, 1)]
)
def test_a_line_waits_for_a_later_step_or_for_5_s(
    seconds: float, next_step: bool, expected: int, tmp_path: Path, now: float
) -> None:
    written = Written(tmp_path)
    written.logs(now, 1)
    if next_step:
        written.begin(now, 2)
    written.flush(now + seconds)
    assert len(written.rows()) == expected


def test_a_step_that_takes_an_hour_until_its_logs_is_one_line(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path)
    written.trainer(now)
    written.feed(now, step=1, metrics={"vllm/latency_seconds": 3.0}, role="RolloutRayActor")
    written.begin(now, 2)
    written.flush(now + 3600)
    assert written.rows() == []
    written.logs(now + 3600, 1)
    written.flush(now + 3602)
    assert [(row["step"], row["vllm/latency_seconds"], row["train/kl"]) for row in written.rows()] == [(1, 3.0, 1.0)]


def test_steps_between_two_that_are_logged_get_their_line_too(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path)
    written.trainer(now)
    for step in (8, 9, 10):
        written.feed(now, step=step, metrics={"rlhfd/advantage_mean": 1.0}, **POLICY)
    written.logs(now + 1, 10)
    written.flush(now + 10)
    assert [row["step"] for row in written.rows()] == [8, 9, 10]


def test_a_run_without_a_trainer_gets_its_lines_without_logs(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path)
    for step in (1, 2):
        written.feed(now, step=step, metrics={"judge/score": float(step)}, role="judge")
    written.flush(now + 1)
    assert written.rows() == []
    written.flush(now + 6)
    assert [row["judge/score"] for row in written.rows()] == [1.0]
    written.flush(now + 61)
    assert [row["judge/score"] for row in written.rows()] == [1.0, 2.0]


def test_what_comes_late_has_a_line_of_its_own_that_says_so(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path)
    written.logs(now, 1)
    written.flush(now + 6)
    written.feed(now + 60, step=1, metrics={"eval/eval_math_pass1": 0.5}, **TRAINER)
    written.feed(now + 60, step=1, metrics={"eval/eval_num_samples": 8.0}, **TRAINER)
    written.logs(now + 60, 2)
    written.flush(now + 66)
    assert [(row["step"], row.get("late")) for row in written.rows()] == [(1, None), (1, True), (2, None)]
    assert written.rows()[1]["eval/eval_math_pass1"] == 0.5
    assert written.rows()[1]["eval/eval_num_samples"] == 8.0


def test_of_several_ranks_the_first_counts_and_of_several_values_the_last(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path)
    for rank in (0, 1, 2):
        for value in (1.0, 2.0):
            written.feed(now, step=1, rank=rank, metrics={"grad": 10.0 * rank + value, f"of_{rank}": 1.0}, **POLICY)
    written.logs(now, 1)
    written.flush(now + 6)
    (row,) = written.rows()
    assert (row["grad"], "of_0" in row, "of_1" in row) == (2.0, True, False)


def test_what_follows_from_several_ranks_together_is_in_the_line(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path)
    for rank in (0, 1):
        written.feed(now, kind="event", event="process_start", rank=rank, fields={"world_size": 2})
    for event in ("phase_begin", "phase_end"):
        for rank in (0, 1):
            fields = {"phase": "train", "id": 1, "seconds": 2.0 + rank}
            written.feed(now, kind="event", event=event, rank=rank, step=1, fields=fields)
    written.logs(now, 1)
    written.flush(now + 6)
    (row,) = written.rows()
    assert (row["phase/train/seconds"], row["phase/train/slowest_rank"]) == (2.0, 1.0)


def test_of_equal_names_the_trainer_s_is_plain_then_the_policy_s(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path)
    for role, value in (("CriticModelActor", 1.0), ("PolicyModelActor", 2.0), ("AnotherActor", 3.0)):
        written.feed(now, step=1, role=role, metrics={"grad_norm": value, "train/kl": value * 100})
    written.feed(now, step=2, metrics={"train/kl": 7.0, "grad_norm": 9.0, "step": 5.0}, **TRAINER)
    written.feed(now, step=2, metrics={"train/kl": 8.0}, **POLICY)
    written.flush(now + 6)
    second = written.rows()[-1]
    assert (second["train/kl"], second["train/kl@PolicyModelActor"], second["step@PPOTrainer"]) == (7.0, 8.0, 5.0)
    first = {name: value for name, value in written.rows()[0].items() if name.startswith("grad_norm")}
    assert first == {"grad_norm": 1.0, "grad_norm@PolicyModelActor": 2.0, "grad_norm@AnotherActor": 3.0}


def test_the_node_and_values_without_a_step_are_in_no_line(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path)
    written.feed(now, run="node:h", role=DAEMON_ROLE, rank=None, step=1, metrics={"host/cpu_ratio": 1.0})
    written.feed(now, role=DAEMON_ROLE, rank=None, metrics={"process/a/rss_bytes": 1.0})
    written.logs(now, 1)
    written.flush(now + 6)
    assert [sorted(row) for row in written.rows()] == [["step", "time", "train/kl"]]
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_values_that_are_not_finite_are_what_python_s_json_reads() -> None:
    text = line(3, 1.5, {"a": math.nan, "b": -math.inf, "c": math.inf}).decode()
    assert text == '{"step":3,"time":1.5,"a":NaN,"b":-Infinity,"c":Infinity}\n'
    assert math.isnan(json.loads(text)["a"])


def test_a_run_that_ends_leaves_nothing_behind_in_memory(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path)
    written.trainer(now)
    written.feed(now, step=1, metrics={"rlhfd/advantage_mean": 1.0}, **POLICY)
    written.logs(now, 2)
    for who in (TRAINER, POLICY):
        written.feed(now, kind="event", event="process_stop", **who)
    written.flush(now + 0.1)
    assert [row["step"] for row in written.rows()] == [1, 2]
    written.flush(now + 1)
    assert written.steps._launches == {}


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "killed"])
def test_a_restart_goes_on_behind_the_last_line_and_writes_nothing_twice(
    stopped: bool, tmp_path: Path, now: float
) -> None:
    past = time.time() - 1000.0

    def replay(into: Written) -> None:
        into.trainer(past)
        for step in range(1, 6):
            into.feed(past + step, step=step, metrics={"rlhfd/advantage_mean": float(step)}, **POLICY)
            into.logs(past + step + 0.1, step, value=float(step))

    before = Written(tmp_path)
    before.steps._started = past - 1
    replay(before)
    before.flush(past + 4.5, is_last=stopped)
    done = len(before.rows())
    assert done == (5 if stopped else 3)
    after = Written(tmp_path)
    replay(after)
    after.feed(past + 5.5, step=6, metrics={"rlhfd/advantage_mean": 6.0}, **POLICY)
    after.flush(now - 99)
    assert [row["step"] for row in after.rows()] == [1, 2, 3, 4, 5], "step 6 is under way"
    after.logs(now, 6)
    after.feed(now, step=2, metrics={"eval/late": 1.0}, **TRAINER)
    after.flush(now + 6)
    assert [(row["step"], row.get("rlhfd/advantage_mean")) for row in after.rows()[5:]] == [(2, None), (6, 6.0)]


def test_a_restart_without_files_writes_all_that_the_frame_log_still_has(tmp_path: Path) -> None:
    written = Written(tmp_path)
    past = time.time() - 10_000.0
    for step in range(1, 501):
        written.logs(past + step, step)
    assert len(written.steps._launches[("r", "b")].rows) <= module.MAX_OPEN_STEPS
    written.flush(time.time())
    assert [row["step"] for row in written.rows()] == list(range(1, 501))


def test_a_line_that_a_crash_tore_is_cut_off_and_written_again(tmp_path: Path, now: float) -> None:
    folder = tmp_path / "r" / "b"
    folder.mkdir(parents=True)
    (folder / CURRENT).write_bytes(line(1, 1.0, {"a": 1.0}) + b'{"step":2,"ti')
    written = Written(tmp_path)
    written.logs(now, 2)
    written.flush(now + 6)
    assert [row["step"] for row in written.rows()] == [1, 2]


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"not json\n", b'[1]\n{"step":"x"}\n', b"\xff\xfe\n", b'{"late":true,"step":9}\n']
)
def test_a_file_without_a_step_is_continued(content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / CURRENT).write_bytes(content)
    file = StepFile(folder, 1 << 20)
    assert file.last_step is None
    file.append([line(1, 1.0, {})], 1)
    assert (folder / CURRENT).read_bytes().startswith(content)
    assert StepFile(folder, 1 << 20).last_step == 1


def test_a_full_file_makes_room_and_says_where_it_goes_on(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path, StepsConfig(max_run_bytes=65536))
    for step in range(1, 4001):
        written.logs(now + step, step)
        if step % 100 == 0:
            written.flush(now + step)
    written.flush(now + 5000)
    rows, previous = written.rows(), written.rows(name=PREVIOUS)
    assert rows[0] == {"step": rows[1]["step"] - 1, "continues": PREVIOUS}
    assert previous[-1]["step"] == rows[0]["step"]
    assert rows[-1]["step"] == 4000
    steps = [row["step"] for row in [*previous, *rows] if "continues" not in row]
    assert steps == list(range(steps[0], 4001))
    assert sum(path.stat().st_size for path in (tmp_path / "r" / "b").iterdir()) <= 65536
    assert StepFile(tmp_path / "r" / "b", 65536).last_step == 4000


def test_only_the_newest_launches_are_kept_and_nothing_else_is_deleted(tmp_path: Path) -> None:
    for number in range(6):
        folder = tmp_path / f"run-{number % 3}" / f"boot-{number}"
        StepFile(folder, 1 << 20).append([line(1, 1.0, {})], 1)
        os.utime(folder / CURRENT, (number, number))
    (tmp_path / "run-0" / "boot-0" / "notes.txt").write_text("mine")
    assert forget_oldest(tmp_path, 2) == 4
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["run-0/boot-0/notes.txt", "run-1/boot-4/steps.jsonl", "run-2/boot-5/steps.jsonl"]
    assert not (tmp_path / "run-1" / "boot-1").exists()


def test_a_new_launch_makes_the_oldest_go(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path, StepsConfig(max_runs=2))
    for number in range(3):
        written.logs(now, 1, boot=f"boot-{number}")
        written.flush(now + 6)
        os.utime(tmp_path / "r" / f"boot-{number}" / CURRENT, (number, number))
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["boot-1", "boot-2"]


@given(st.text(min_size=1, max_size=128), st.text(min_size=1, max_size=128))
def test_no_name_leads_out_of_the_folder_or_into_another_s(one: str, other: str) -> None:
    root = Path("/state/runs")
    folder = folder_of(root, one, other)
    assert folder.parent.parent == root
    assert os.path.normpath(folder) == str(folder)
    assert all(len(part.encode()) <= 255 and not part.startswith(".") for part in folder.relative_to(root).parts)
    assert (folder == folder_of(root, other, one)) == (one == other)


@pytest.mark.parametrize(
    ("name", "begins"),
    [("ppo-7", "ppo-7"), ("llama_3.1-8B", "llama_3.1-8B"), ("../../etc", "_.._etc~"), ("..", "_~"), (".", "_~"),
     ("a/b", "a_b~"), ("größe", "gr__e~"), ("x\n", "x_~"), ("a~01234567", "a_01234567~"),
     ("x" * 128, "x" * 80 + "~")],
)  # fmt: skip
def test_a_name_that_is_no_file_name_is_readable_and_its_own(name: str, begins: str) -> None:
    part = folder_of(Path("/"), name, "b").parent.name
    assert part.startswith(begins)
    assert (part == name) == (not begins.endswith("~"))


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The disk takes as many more bytes as the list's one number says."""
    left, write = [1 << 40], os.write

    def limited(fd: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        taken = write(fd, data[: left[0]])
        left[0] -= taken
        return taken

    monkeypatch.setattr("rlhfd_daemon.outlets.step_files.os.write", limited)
    return left


def test_a_full_disk_leaves_whole_lines_and_what_it_did_not_take_is_written_later(
    full: list[int], tmp_path: Path, now: float
) -> None:
    written = Written(tmp_path)
    written.logs(now, 1)
    written.flush(now + 6)
    full[0] = 10
    written.logs(now + 6, 2)
    written.flush(now + 12)
    assert written.steps.status()["error"] == "No space left on device"
    assert [row["step"] for row in written.rows()] == [1]
    full[0] = 1 << 40
    written.logs(now + 13, 3)
    written.flush(now + 14)
    assert [row["step"] for row in written.rows()] == [1], "the disk is not asked again at once"
    written.flush(now + 30)
    assert [row["step"] for row in written.rows()] == [1, 2, 3]
    assert written.steps.status()["error"] is None
    assert written.steps.written_total == 3
    assert written.steps.dropped_total == 0


def test_what_waits_for_a_full_disk_is_bounded_and_drops_are_counted(
    full: list[int], tmp_path: Path, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 1000)
    full[0] = 0
    written = Written(tmp_path)
    for step in range(1, 101):
        written.logs(now + step, step)
        written.flush(now + step)
    written.flush(now + 200)
    full[0] = 1 << 40
    written.flush(now + 300)
    assert 0 < len(written.rows()) < 30
    assert len(written.rows()) + written.steps.dropped_total == 100


def test_a_folder_that_cannot_be_made_is_an_error_of_the_files_alone(tmp_path: Path, now: float) -> None:
    (tmp_path / "r").write_text("in the way")
    written = Written(tmp_path)
    written.logs(now, 1)
    written.logs(now, 1, run="other")
    written.flush(now + 6)
    assert written.steps.error is not None
    assert [row["step"] for row in written.rows(run="other")] == [1]
    assert (tmp_path / "r").read_text() == "in the way"


def test_files_that_are_deleted_while_the_run_goes_on_come_back(tmp_path: Path, now: float) -> None:
    written = Written(tmp_path)
    written.logs(now, 1)
    written.flush(now + 6)
    (tmp_path / "r" / "b" / CURRENT).unlink()
    (tmp_path / "r" / "b").rmdir()
    written.logs(now + 6, 2)
    written.flush(now + 12)
    assert [row["step"] for row in written.rows()] == [2]


def test_a_link_is_not_followed(tmp_path: Path, now: float) -> None:
    (tmp_path / "r" / "b").mkdir(parents=True)
    precious = tmp_path / "precious"
    precious.write_text("precious\n")
    (tmp_path / "r" / "b" / CURRENT).symlink_to(precious)
    written = Written(tmp_path)
    written.logs(now, 1)
    written.flush(now + 6)
    assert precious.read_text() == "precious\n"
    assert written.steps.error is not None


def test_a_line_has_no_more_values_than_fit(tmp_path: Path, now: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VALUES", 10)
    written = Written(tmp_path)
    written.logs(now, 1)
    written.feed(now, step=1, metrics={f"own/{number}": 1.0 for number in range(100)}, role="judge")
    written.logs(now, 1, value=5.0)
    written.flush(now + 6)
    (row,) = written.rows()
    assert len(row) == 12
    assert row["train/kl"] == 5.0


def test_it_writes_by_itself_and_stops_with_everything_that_is_complete(tmp_path: Path) -> None:
    written = Written(tmp_path)
    written.trainer(time.time())

    async def main() -> None:
        await written.steps.start()
        written.logs(time.time(), 1)
        written.begin(time.time(), 2)
        await asyncio.get_running_loop().run_in_executor(None, wait_for, written.rows)
        written.logs(time.time(), 2)
        written.feed(time.time(), step=3, metrics={"rlhfd/advantage_mean": 1.0}, **POLICY)
        await written.steps.stop()
        await written.steps.stop()

    asyncio.run(main())
    assert [row["step"] for row in written.rows()] == [1, 2], "step 3 is under way and comes again from the frame log"
