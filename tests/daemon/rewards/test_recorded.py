"""`rlhfd reward` over a frame log: the samples that a run sent, and clear words where there are none."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest

from rewarding import MODEL, run
from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.framelog import FrameLog
from rlhfd_daemon.rewards.reading import read
from rlhfd_daemon.rewards.recorded import EVENT
from rlhfd_daemon.rewards.sample import Columns, Sample


def frame(step: int, fields: dict[str, Any], run: str = "r", event: str = EVENT) -> bytes:
    head = {
        "v": 1,
        "run": run,
        "boot": "b",
        "role": "PPOTrainer",
        "rank": None,
        "stream": "s",
        "pid": 1,
        "seq": step + 1,
    }
    tail = {
        "seq": step + 1,
        "time_ns": 1,
        "mono_ns": 1,
        "kind": "event",
        "step": step,
        "event": event,
        "fields": fields,
    }
    packed: bytes = msgpack.packb({**head, **tail})
    return packed


def log_of(folder: Path, *payloads: bytes) -> Path:
    log = FrameLog(folder)
    log.open()
    for payload in payloads:
        log.append([(1, 0, 1, payload)])
    log.close()
    return folder


def samples_of(path: Path, run: str | None = None) -> list[Sample]:
    return list(read(path, Columns(), lambda damage: None, run))


@pytest.mark.parametrize("form", ["folder", "state", "segment", "packed"])
def test_the_samples_of_a_run_come_back(tmp_path: Path, form: str) -> None:
    steps = [
        {"reward": [1.0, 0.5], "length": [3.0, 4.0], "prompt_id": [0, 0], "response_id": [-7, 8], "kl": [0.1, None],
         "repetition": [None, 0.5], "advantage": [0.25, -0.25]},
        {"reward": [float("nan")], "length": [9.0], "prompt_id": [0], "response_id": [-7]},
    ]  # fmt: skip
    log = log_of(tmp_path / "frames", *(frame(step, fields) for step, fields in enumerate(steps)))
    path = {"folder": log, "state": tmp_path, "segment": next(log.glob("*.log"))}.get(form)
    if path is None:
        path = tmp_path / "one.xz"
        path.write_bytes(lzma.compress(next(log.glob("*.log")).read_bytes()))
    first, second, third = samples_of(path)
    assert (first.step, first.reward, first.length, first.kl, first.advantage) == (0, 1.0, 3.0, 0.1, 0.25)
    assert (second.kl, second.repetition) == (None, 0.5)
    assert first.prompt == second.prompt != third.prompt  # numbers begin anew in each step
    assert (first.response, third.step) == (third.response, 1)
    assert third.reward != third.reward


def test_a_log_of_several_runs_needs_a_name(tmp_path: Path) -> None:
    log = log_of(tmp_path, frame(0, {"reward": [1.0]}, "a"), frame(0, {"reward": [2.0]}, "b"))
    with pytest.raises(TraceError, match=r"several runs \(a, b\); name one: --run NAME"):
        samples_of(log)
    assert [one.reward for one in samples_of(log, "b")] == [2.0]
    with pytest.raises(TraceError, match="no samples of the run c; there are those of a, b"):
        samples_of(log, "c")


def test_a_log_without_samples_says_how_to_get_them(tmp_path: Path) -> None:
    log = log_of(tmp_path, frame(0, {"samples": 3}, event="reward_summary"))
    with pytest.raises(TraceError, match="start the run with rlhfd run --samples"):
        samples_of(log)


def test_what_is_no_list_or_of_unequal_length_is_passed_over(tmp_path: Path) -> None:
    log = log_of(tmp_path, frame(0, {"reward": [1.0, 2.0], "length": [3.0], "kl": "x"}), frame(1, {"reward": 7}))
    (only,) = samples_of(log)
    assert (only.reward, only.length, only.kl) == (1.0, 3.0, None)


def test_the_command_judges_a_log(tmp_path: Path) -> None:
    names = ("reward", "length", "repetition", "kl", "advantage")
    payloads = []
    for step in range(20):
        rows = [one for one in run(MODEL, 3) if one.step == step]
        numbers = {prompt: place for place, prompt in enumerate(dict.fromkeys(one.prompt for one in rows))}
        columns: dict[str, list[Any]] = {name: [getattr(one, name) for one in rows] for name in names}
        payloads.append(frame(step, {**columns, "prompt_id": [numbers[one.prompt] for one in rows]}))
    command = [sys.executable, "-m", "rlhfd_daemon", "reward", "--json", str(log_of(tmp_path, *payloads))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["samples"] == 20 * 128
