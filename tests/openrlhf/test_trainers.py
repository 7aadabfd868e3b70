"""SFT, reward-model and DPO training under observation, and SFT with rlhfd broken in every way."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openrlhf.conftest import rows, under_rlhfd
from openrlhf.lab import Lab
from openrlhf.recomputed_filling import filling
from openrlhf.runs import PACKED, start_dpo, start_rm, start_sft
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.interpret import Interpreter
from rlhfd_daemon.metrics import lookup
from rlhfd_daemon.runs import DAEMON_ROLE
from support import DaemonProcess

STEPS = 8
OURS = "rlhfd/model/"
RUN_SECONDS = 300.0


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[DaemonProcess]:
    process = DaemonProcess(folder).start()
    yield process
    process.stop()


def learned(trace: Path) -> list[dict[str, Any]]:
    """The logged rows without what differs from run to run."""
    return [{key: value for key, value in row.items() if key not in ("time", "pid")} for row in rows(trace)]


def check_filling(frames: list[Frame], dump: Path, rank: int, masks_a_step: int = 1, **args: object) -> list[float]:
    """Every step of the rank has one frame of its micro-batches, equal to a recomputation from the masks that OpenRLHF
    made, of which the first of each ``masks_a_step`` is the trained model's. The tokens of each step."""
    of_rank = [frame for frame in frames if frame.rank == rank and f"{OURS}micro_batches" in frame.metrics]
    masks = [np.load(path) for path in sorted(dump.glob(f"batch-{rank}-*.npy"))][::masks_a_step][:STEPS]
    assert [frame.step for frame in of_rank] == list(range(1, STEPS + 1))
    for frame, mask in zip(of_rank, masks, strict=True):
        assert frame.metrics == pytest.approx(filling("model", [mask], args, "train"))
        assert [name for name in frame.metrics if lookup(name) is None] == []
    return [frame.metrics[f"{OURS}sequence_tokens"] for frame in of_rank]


@pytest.mark.parametrize(
    ("start", "trainer", "extra"),
    [
        (start_sft, "SFTTrainer", ()),
        (start_sft, "SFTTrainer", PACKED),
        (start_rm, "RewardModelTrainer", ()),
        (start_dpo, "DPOTrainer", ()),
    ],
)
def test_step_metrics_and_metadata_arrive(
    start: Callable[..., Any], trainer: str, extra: tuple[str, ...], lab: Lab, daemon: DaemonProcess, tmp_path: Path
) -> None:
    run, trace, dump = f"{trainer}{len(extra)}", tmp_path / "trace.jsonl", tmp_path / "dump"
    dump.mkdir()
    prefix = under_rlhfd(lab, run, daemon.endpoint)
    options = {"log": tmp_path / "run.log", "trace": trace, "prefix": prefix, "env": {"LAB_DUMP": str(dump)}}
    with start(lab, "run", steps=STEPS, extra=extra, **options) as process:
        assert process.wait(RUN_SECONDS) == 0, process.tail()
    frames = [frame for frame in daemon.frames() if frame.run == run]
    packed = {"ds.packing_samples": bool(extra)}
    check_filling(frames, dump, 0, 2 if trainer == "DPOTrainer" else 1, **packed)  # DPO asks the reference model, too
    arrived = {
        frame.step: frame.metrics for frame in frames if any(name.startswith("train/") for name in frame.metrics)
    }
    logged = [row for row in rows(trace) if "kind" not in row]
    assert [row["step"] for row in logged] == list(range(1, STEPS + 1))
    for row in logged:
        assert arrived[row["step"]] == {key: value for key, value in row.items() if key.startswith("train/")}
    (start_frame,) = [frame for frame in frames if frame.event == "run_start"]
    assert start_frame.fields["trainer"] == trainer
    assert start_frame.fields["args"]["train.batch_size"] == 32
    events = [frame.event for frame in frames if frame.kind == "event"]
    assert (events[0], events[-1]) == ("process_start", "process_stop")
    assert "hook_failed" not in events


def test_two_ranks_under_torchrun_report_themselves_their_micro_batches_and_only_the_first_the_logs(
    lab: Lab, daemon: DaemonProcess, tmp_path: Path
) -> None:
    trace, dump = tmp_path / "trace.jsonl", tmp_path / "dump"
    dump.mkdir()
    prefix = under_rlhfd(lab, "ranks", daemon.endpoint)
    options = {"log": tmp_path / "run.log", "trace": trace, "prefix": prefix, "env": {"LAB_DUMP": str(dump)}}
    with start_sft(lab, "ranks", steps=STEPS, ranks=2, **options) as process:  # type: ignore[arg-type]
        assert process.wait(RUN_SECONDS) == 0, process.tail()
    frames = [frame for frame in daemon.frames() if frame.run == "ranks" and frame.role != DAEMON_ROLE]
    assert {frame.role for frame in frames} == {"SFTTrainer"}
    for rank in (0, 1):
        events = [frame.event for frame in frames if frame.rank == rank and frame.kind == "event"]
        assert (events[0], events[-1]) == ("process_start", "process_stop")
        assert events.count("phase_begin") == events.count("phase_end") == 1  # saving the model
    left, right = (check_filling(frames, dump, rank) for rank in (0, 1))
    unequal = [2 * max(pair) / sum(pair) for pair in zip(left, right, strict=True)]
    assert max(unequal) > 1
    assert imbalances(frames) == pytest.approx(dict(enumerate(unequal, 1)))
    of_steps = [frame for frame in frames if any(name.startswith("train/") for name in frame.metrics)]
    metrics = [(frame.rank, frame.step, frame.metrics) for frame in of_steps]
    assert metrics == [
        (0, row["step"], {key: value for key, value in row.items() if key.startswith("train/")}) for row in rows(trace)
    ]
    assert len(metrics) == STEPS


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
