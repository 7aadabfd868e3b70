"""SFT, reward-model and DPO training under observation, and SFT with rlhfd broken in every way."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openrlhf.lab import Lab
from openrlhf.recomputed_filling import filling
from openrlhf.runs import rows, start_sft, under_rlhfd
from openrlhf.trained import STEPS, Trained
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.interpret import Interpreter
from rlhfd_daemon.metrics import lookup
from support import DaemonProcess

OURS = "rlhfd/model/"
RUN_SECONDS = 300.0


def learned(trace: Path) -> list[dict[str, Any]]:
    """The logged rows without what differs from run to run."""
    return [{key: value for key, value in row.items() if key not in ("time", "pid")} for row in rows(trace)]


def check_filling(run: Trained, rank: int, masks_a_step: int = 1, **args: object) -> list[float]:
    """Every step of the rank has one frame of its micro-batches, equal to a recomputation from the masks that OpenRLHF
    made, of which the first of each ``masks_a_step`` is the trained model's. The tokens of each step."""
    of_rank = [frame for frame in run.frames if frame.rank == rank and f"{OURS}micro_batches" in frame.metrics]
    masks = [np.load(path) for path in sorted(run.dump.glob(f"batch-{rank}-*.npy"))][::masks_a_step][:STEPS]
    assert [frame.step for frame in of_rank] == list(range(1, STEPS + 1))
    for frame, mask in zip(of_rank, masks, strict=True):
        assert frame.metrics == pytest.approx(filling("model", [mask], args, "train"))
        assert [name for name in frame.metrics if lookup(name) is None] == []
    return [frame.metrics[f"{OURS}sequence_tokens"] for frame in of_rank]


TRAINERS = {"sft": "SFTTrainer", "sft-packed": "SFTTrainer", "rm": "RewardModelTrainer", "dpo": "DPOTrainer"}


@pytest.mark.parametrize("name", TRAINERS)
def test_step_metrics_and_metadata_arrive(name: str, trained: Callable[[str], Trained]) -> None:
    run = trained(name)
    packed = {"ds.packing_samples": name == "sft-packed"}
    check_filling(run, 0, 2 if name == "dpo" else 1, **packed)  # DPO asks the reference model, too
    arrived = {frame.step: frame.metrics for frame in of_steps(run)}
    logged = [row for row in run.logged if "kind" not in row]
    assert [row["step"] for row in logged] == list(range(1, STEPS + 1))
    for row in logged:
        assert arrived[row["step"]] == {key: value for key, value in row.items() if key.startswith("train/")}
    (start_frame,) = [frame for frame in run.frames if frame.event == "run_start"]
    assert start_frame.fields["trainer"] == TRAINERS[name]
    assert start_frame.fields["args"]["train.batch_size"] == 32
    events = [frame.event for frame in run.frames if frame.kind == "event"]
    assert (events[0], events[-1]) == ("process_start", "process_stop")
    assert "hook_failed" not in events


def test_two_ranks_under_torchrun_report_themselves_their_micro_batches_and_only_the_first_the_logs(
    trained: Callable[[str], Trained],
) -> None:
    run = trained("sft-two-ranks")
    assert {frame.role for frame in run.frames} == {"SFTTrainer"}
    for rank in (0, 1):
        frames = [frame for frame in run.frames if frame.rank == rank and frame.kind == "event"]
        assert (frames[0].event, frames[-1].event) == ("process_start", "process_stop")
        phases = [(frame.event, frame.fields["phase"]) for frame in frames if "phase" in frame.fields]
        for event in ("phase_begin", "phase_end"):
            assert phases.count((event, "save_model")) == 1 + STEPS  # --ckpt.save_hf and the end
            assert phases.count((event, "checkpoint")) == STEPS
    left, right = (check_filling(run, rank) for rank in (0, 1))
    unequal = [2 * max(pair) / sum(pair) for pair in zip(left, right, strict=True)]
    assert max(unequal) > 1
    assert imbalances(run.frames) == pytest.approx(dict(enumerate(unequal, 1)))
    assert [(frame.rank, frame.step, frame.metrics) for frame in of_steps(run)] == [
        (0, row["step"], {key: value for key, value in row.items() if key.startswith("train/")}) for row in run.logged
    ]
    assert len(run.logged) == STEPS


def of_steps(run: Trained) -> list[Frame]:
    """The frames with what OpenRLHF logs."""
    return [frame for frame in run.frames if any(name.startswith("train/") for name in frame.metrics)]


def imbalances(frames: list[Frame]) -> dict[int | None, float]:
    """What the daemon derives from the tokens of both ranks, by step."""
    interpreter = Interpreter()
    samples = [sample for frame in frames for sample in interpreter.samples(frame, frame.time_ns, 0)]
    return {sample.step: sample.value for sample in samples if sample.name == f"{OURS}rank_tokens_imbalance"}


@pytest.fixture(scope="module")
def plain(lab: Lab, folder: Path) -> list[dict[str, Any]]:
    """What SFT learns without rlhfd."""
    trace = folder / "plain.jsonl"
    with start_sft(lab, "plain", steps=STEPS, log=folder / "plain.log", trace=trace) as process:
        assert process.wait(RUN_SECONDS) == 0, process.tail()
    return learned(trace)


@pytest.mark.parametrize("broken", ["raise", "unimportable", "no_permission", "not_a_socket"])
def test_a_broken_rlhfd_leaves_the_training_result_unchanged(
    broken: str, lab: Lab, plain: list[dict[str, Any]], folder: Path
) -> None:
    own = folder / broken
    own.mkdir()
    environ = {"LAB_BREAK_RLHFD": broken} if broken in ("raise", "unimportable") else {}
    prefix = under_rlhfd(lab, broken, f"ipc://{own}/rlhfd.sock")
    daemon = None
    if broken == "not_a_socket":
        (own / "rlhfd.sock").write_text("not a socket")
    else:
        daemon = DaemonProcess(own).start()
    if broken == "no_permission":
        daemon = daemon or DaemonProcess(own)
        daemon.socket.chmod(0o000)
        if os.geteuid() == 0:  # root passes every mode bit, unless it lacks the capability to
            prefix = (str(shutil.which("setpriv")), "--bounding-set=-dac_override,-dac_read_search", *prefix)
    trace = own / "trace.jsonl"
    try:
        with start_sft(
            lab, broken, steps=STEPS, log=own / "run.log", trace=trace, prefix=prefix, env=environ
        ) as process:
            assert process.wait(RUN_SECONDS) == 0, process.tail()
    finally:
        if daemon is not None:
            daemon.stop()
            assert not daemon.frames()
    assert learned(trace) == plain


def test_the_exit_code_is_openrlhfs_own(lab: Lab, folder: Path) -> None:
    command = [str(lab.python), "-m", "openrlhf.cli.train_sft", "--no.such.option"]
    prefix = under_rlhfd(lab, "wrong", f"ipc://{folder}/none.sock")
    codes = [
        subprocess.run([*before, *command], env=lab.environment(), capture_output=True, timeout=120).returncode
        for before in ((), prefix)
    ]
    assert codes[0] == codes[1] == 2
