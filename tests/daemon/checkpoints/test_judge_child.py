"""The process that judges: it says nothing of what is being deleted, and keeps within its memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import hostile_checkpoints as hostile
from checkpoint_trees import look
from exports import SECOND, export, weights
from rlhfd_daemon.checkpoints import judge_child
from rlhfd_daemon.checkpoints.judge_child import judged
from rlhfd_daemon.checkpoints.judgement import Answer, Question
from rlhfd_daemon.checkpoints.report import Report, report

LIMITED = "from rlhfd_daemon.checkpoints import judge_child; judge_child.MEMORY_BYTES = {} << 20; judge_child.main()"


def question(root: Path, stamp: str = "", before: str | None = None) -> Question:
    return Question(root=str(root), path="global_step10_hf", stamp=stamp, before=before)


def stamp(root: Path) -> str:
    (found,) = look(root).checkpoints
    return found.stamp


def test_a_shard_that_rotation_deleted_since_it_was_complete_is_not_missing(tmp_path: Path) -> None:
    path = export(tmp_path, weights())
    complete = stamp(tmp_path)
    assert judged(question(tmp_path, stamp=complete)).score == 1.0
    (path / SECOND).unlink()
    assert judged(question(tmp_path, stamp=complete)) == Answer(vanished=True)
    assert [one.kind for one in judged(question(tmp_path)).issues] == ["unreadable"], "without a word of completeness"


def test_a_shard_that_rotation_deletes_meanwhile_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(tmp_path, weights())

    def deleted_meanwhile(*args: object, **options: object) -> Report:
        (path / SECOND).unlink()
        return report(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(judge_child, "report", deleted_meanwhile)
    assert judged(question(tmp_path, stamp=stamp(tmp_path))) == Answer(vanished=True)


def test_updates_are_told_by_tensor(tmp_path: Path) -> None:
    export(tmp_path, weights(moved=0.01), 10)
    export(tmp_path, weights(), 5)
    answer = judged(question(tmp_path, before="global_step5_hf"))
    assert answer.updates.keys() == weights().keys()
    assert answer.updates["lm_head.weight"] == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(("mebibytes", "error"), [(200, ""), (50, "more than 50 MiB of memory are needed to read it")])
def test_what_needs_more_memory_than_there_may_be_is_not_judged(mebibytes: int, error: str, tmp_path: Path) -> None:
    file = hostile.put(tmp_path, "x.pt", hostile.torch_file(b"}" * 1_500_000))
    asked = msgspec.json.encode(Question(root=str(file), path=""))
    command = [sys.executable, "-c", LIMITED.format(mebibytes)]
    done = subprocess.run(command, input=asked, capture_output=True, timeout=100, check=True)
    assert msgspec.json.decode(done.stdout, type=Answer).error == error
