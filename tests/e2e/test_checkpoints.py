"""A real daemon beside a run whose checkpoints appear, are healthy, and are not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exports import export, weights
from rlhfd_alerts.testing import SECRET
from rlhfd_daemon.control import ask
from rlhfd_emitter import Emitter
from support import DaemonProcess, invoked, wait_for

CONFIG = (
    '[targets.ops]\nurl = "http://127.0.0.1:9/"\nallow_private = true\nsecret_env = "HOOK_SECRET"\n'
    "[pollers.checkpoints]\ninterval_seconds = 1\nsettle_seconds = 0.5\nbroken_seconds = 2\n"
)
SECRET_ENV = {"HOOK_SECRET": SECRET}


@pytest.fixture
def daemon(short_dir: Path) -> Any:
    started = DaemonProcess(short_dir, CONFIG, SECRET_ENV).start()
    yield started
    DaemonProcess.kill_all()


def run_of(daemon: DaemonProcess, folder: Path) -> Emitter:
    emitter = Emitter("saves", role="PPOTrainer", rank=0, boot="boot-1", endpoint=daemon.endpoint)
    emitter.event("run_start", trainer="PPOTrainer", args={"ckpt.path": str(folder), "ckpt.save_steps": 10})
    emitter.emit(30, {"train/loss": 1.0})
    return emitter


def firing(daemon: DaemonProcess) -> dict[str, str]:
    """Rule and summary of what fires."""
    said: Any = ask(daemon.control, "GET", "/api/v1/alerts")["episodes"]
    found: list[dict[str, Any]] = [alert for one in said for alert in one["alerts"]]
    return {one["rule"]: next(each["summary"] for each in said) for one in found}


def judgements(daemon: DaemonProcess) -> list[dict[str, Any]]:
    path = daemon.state / "runs" / "saves" / "boot-1" / "checkpoints.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_checkpoint_of_nans_is_an_alert_and_the_next_healthy_one_its_end(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    emitter = run_of(daemon, tmp_path / "ckpt")
    export(tmp_path / "ckpt", weights(), 10)
    wait_for(lambda: len(judgements(daemon)) == 1, 60)
    assert firing(daemon) == {}
    broken = weights(moved=0.01)
    broken["lm_head.weight"][0, 0] = np.nan
    export(tmp_path / "ckpt", broken, 20)
    wait_for(lambda: "checkpoint_non_finite" in firing(daemon), 60)
    assert "lm_head.weight: 1 NaN" in firing(daemon)["checkpoint_non_finite"]
    export(tmp_path / "ckpt", weights(moved=0.02), 30)
    wait_for(lambda: firing(daemon) == {}, 60)
    scores = [one["answer"]["score"] for one in judgements(daemon)]
    assert [score > 0.95 for score in scores] == [True, False, True]
    compared = [one["answer"]["compared"] for one in judgements(daemon)]
    assert [one and Path(one).name for one in compared] == [None, "global_step10_hf", "global_step20_hf"]
    emitter.close()
    shown = invoked("checkpoints", "saves", "--config", daemon.config)
    assert [line.split()[:4] for line in shown.stdout.splitlines()[2:]] == [
        ["10", "model", "export", "1.000"], ["20", "model", "export", "0.400"], ["30", "model", "export", "1.000"],
    ]  # fmt: skip
    assert "1 non_finite (lm_head.weight)" in shown.stdout


def test_a_checkpoint_that_is_never_finished_is_an_alert(daemon: DaemonProcess, tmp_path: Path) -> None:
    emitter = run_of(daemon, tmp_path / "ckpt")
    path = export(tmp_path / "ckpt", weights(), 10)
    os.unlink(path / "model-00002-of-00002.safetensors")
    wait_for(lambda: "checkpoint_incomplete" in firing(daemon), 60)
    assert "model-00002-of-00002.safetensors" in firing(daemon)["checkpoint_incomplete"]
    emitter.close()
