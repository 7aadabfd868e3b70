"""Which log is meant: formats by content, and folders with one log, several or none."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest

from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.framelog import FrameLog
from rlhfd_daemon.traces import FrameTrace, RowTrace, find
from wire import packed

FIXTURES = Path(__file__).parents[1] / "fixtures" / "traces"
EVENTS = FIXTURES / "events.out.tfevents.1700000000.host"
WANDB = FIXTURES / "run-0_31_0.wandb.gz"


def frame_log(folder: Path) -> Path:
    log = FrameLog(folder)
    log.open()
    log.append([(10**18, 0, 1, packed(1))])
    log.close()
    return folder


def copied(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    return target


def format_at(path: Path) -> str:
    found = find(path)
    return found.format.name if isinstance(found, RowTrace) else "frame log"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"step": 1, "a": 1}\n', "JSON lines"),
        (b'\xef\xbb\xbf{"step": 1, "a": 1}\n', "JSON lines"),
        (b'starting\n{"step": 1, "a": 1}\n', "JSON lines"),
        (b'{"log_history": [], "x": 1}', "trainer_state.json"),
        (b'[{"step": 1}]', "trainer_state.json"),
        (b"step,a\n1,2\n", "CSV"),
        (b"a;b\n1;2\n", "CSV"),
        (b"hello\nstep:1 - a:1\n", "verl console"),
        (b"just some text, nothing else\n", "verl console"),  # may come to a step later; if not it is an error then
        (EVENTS.read_bytes(), "TensorBoard events"),
        (gzip.decompress(WANDB.read_bytes()), "wandb offline run"),
    ],
)
@pytest.mark.parametrize("name", ["log", "misleading.csv", "misleading.wandb"])
def test_the_content_says_what_a_file_is_also_packed(content: bytes, expected: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert format_at(tmp_path / name) == expected
    (tmp_path / name).write_bytes(gzip.compress(content))
    assert format_at(tmp_path / name) == expected


def test_frame_logs_are_known_as_folder_as_segment_and_packed(tmp_path: Path) -> None:
    folder = frame_log(tmp_path / "state" / "frames")
    assert find(folder) == FrameTrace(folder)
    assert find(tmp_path / "state") == FrameTrace(folder)
    (segment,) = folder.glob("*.log")
    assert find(segment) == FrameTrace(segment)
    (tmp_path / "packed").write_bytes(gzip.compress(segment.read_bytes()))
    assert find(tmp_path / "packed") == FrameTrace(tmp_path / "packed")


def test_a_state_directory_is_its_frame_log_and_rotated_step_files_are_one_log(tmp_path: Path) -> None:
    folder = frame_log(tmp_path / "frames")
    steps = tmp_path / "steps" / "run" / "boot"
    steps.mkdir(parents=True)
    for name in ("steps.jsonl", "steps.1.jsonl"):
        (steps / name).write_text('{"step": 1, "a": 1}\n')
    assert find(tmp_path) == FrameTrace(folder)
    found = find(tmp_path / "steps")
    assert isinstance(found, RowTrace)
    assert found.files == (steps / "steps.1.jsonl", steps / "steps.jsonl")


def test_event_files_of_one_folder_are_one_log_in_order_of_time(tmp_path: Path) -> None:
    files = [copied(EVENTS, tmp_path / "tb" / "run" / f"events.out.tfevents.{time}.host") for time in (900, 1700, 20)]
    found = find(tmp_path)
    assert isinstance(found, RowTrace)
    assert found.files == (files[2], files[0], files[1])


def test_a_folder_of_hyperparameters_does_not_hide_the_only_run(tmp_path: Path) -> None:
    run = copied(EVENTS, tmp_path / "runs" / "now" / EVENTS.name)
    empty = tmp_path / "runs" / "now" / "1700000000.5" / "events.out.tfevents.1700000000.host"
    empty.parent.mkdir()
    empty.write_bytes(EVENTS.read_bytes()[:60])
    found = find(tmp_path)
    assert isinstance(found, RowTrace)
    assert found.files == (run,)


def test_a_wandb_folder_with_one_run_is_that_run_and_links_are_not_followed(tmp_path: Path) -> None:
    run = copied(WANDB, tmp_path / "wandb" / "offline-run-20260101_000000-abc" / "run-abc.wandb")
    os.symlink(run.parent, tmp_path / "wandb" / "latest-run")
    found = find(tmp_path)
    assert isinstance(found, RowTrace)
    assert found.files == (run,)


def test_of_a_trainer_s_checkpoints_the_newest_tells_all(tmp_path: Path) -> None:
    for step in (500, 1000, 90):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"log_history": []}))
        (tmp_path / f"checkpoint-{step}" / "model.bin").write_bytes(b"\0" * 100)
    assert find(tmp_path).path == tmp_path / "checkpoint-1000" / "trainer_state.json"


def test_several_logs_are_an_error_that_lists_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        copied(EVENTS, tmp_path / name / EVENTS.name)
    (tmp_path / "steps.jsonl").write_text('{"step": 1, "a": 1}\n')
    with pytest.raises(TraceError, match="3 logs in this folder; name one of them") as error:
        find(tmp_path)
    for name in ("a", "b", "steps.jsonl"):
        assert str(tmp_path / name) in str(error.value)


def test_what_cannot_be_read_is_an_error_that_says_why(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    (tmp_path / "garbage").write_bytes(os.urandom(5000) + b"\0")
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8bnot gzip")
    (tmp_path / "folder").mkdir()
    (tmp_path / "packed.gz").write_bytes(gzip.compress(b""))
    expected = {
        "fifo": "neither a regular file nor a folder",
        "empty": "empty",
        "garbage": "no log that rlhfd knows",
        "broken.gz": "damaged archive",
        "folder": "no log in this folder",
        "packed.gz": "empty",
        "missing": "No such file",
    }
    for name, says in expected.items():
        with pytest.raises(TraceError, match=says) as error:
            find(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(TraceError, match="neither a regular file"):
        find(Path("/dev/zero"))
