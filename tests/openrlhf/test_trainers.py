"""SFT, reward-model and DPO training under observation, and SFT with rlhfd broken in every way."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openrlhf.conftest import rows, under_rlhfd
from openrlhf.lab import Lab
from openrlhf.runs import start_dpo, start_rm, start_sft
from rlhfd_daemon.runs import DAEMON_ROLE
from support import DaemonProcess

STEPS = 8
RUN_SECONDS = 300.0


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[DaemonProcess]:
    process = DaemonProcess(folder).start()
    yield process
    process.stop()


def learned(trace: Path) -> list[dict[str, Any]]:
    """The logged rows without what differs from run to run."""
    return [{key: value for key, value in row.items() if key not in ("time", "pid")} for row in rows(trace)]


@pytest.mark.parametrize(
    ("start", "trainer"),
    [(start_sft, "SFTTrainer"), (start_rm, "RewardModelTrainer"), (start_dpo, "DPOTrainer")],
)
def test_step_metrics_and_metadata_arrive(
    start: Callable[..., Any], trainer: str, lab: Lab, daemon: DaemonProcess, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    prefix = under_rlhfd(lab, trainer, daemon.endpoint)
    with start(lab, "run", steps=STEPS, log=tmp_path / "run.log", trace=trace, prefix=prefix) as process:
        assert process.wait(RUN_SECONDS) == 0, process.tail()
    frames = [frame for frame in daemon.frames() if frame.run == trainer]
    arrived = {frame.step: frame.metrics for frame in frames if frame.kind == "metrics"}
    logged = [row for row in rows(trace) if "kind" not in row]
    assert [row["step"] for row in logged] == list(range(1, STEPS + 1))
    for row in logged:
        assert arrived[row["step"]] == {key: value for key, value in row.items() if key.startswith("train/")}
    (start_frame,) = [frame for frame in frames if frame.event == "run_start"]
    assert start_frame.fields["trainer"] == trainer
    assert start_frame.fields["args"]["train.batch_size"] == 32
    events = [frame.event for frame in frames if frame.kind == "event"]
    assert (events[0], events[-1]) == ("process_start", "process_stop")


def test_two_ranks_under_torchrun_report_themselves_and_only_the_first_the_metrics(
    lab: Lab, daemon: DaemonProcess, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    prefix = under_rlhfd(lab, "ranks", daemon.endpoint)
    with start_sft(lab, "ranks", steps=STEPS, ranks=2, log=tmp_path / "run.log", trace=trace, prefix=prefix) as process:
        assert process.wait(RUN_SECONDS) == 0, process.tail()
    frames = [frame for frame in daemon.frames() if frame.run == "ranks" and frame.role != DAEMON_ROLE]
    assert {frame.role for frame in frames} == {"SFTTrainer"}
    for rank in (0, 1):
        events = [frame.event for frame in frames if frame.rank == rank and frame.kind == "event"]
        assert (events[0], events[-1]) == ("process_start", "process_stop")
        assert events.count("phase_begin") == events.count("phase_end") == 1  # saving the model
    of_steps = [frame for frame in frames if frame.kind == "metrics" and frame.step is not None]
    metrics = [(frame.rank, frame.step, frame.metrics) for frame in of_steps]
    assert metrics == [
        (0, row["step"], {key: value for key, value in row.items() if key.startswith("train/")}) for row in rows(trace)
    ]
    assert len(metrics) == STEPS


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
