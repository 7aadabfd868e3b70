"""Work that is unequally shared between ranks: real emitters of two ranks, a real daemon, and what it says of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhfd_daemon.interpret import Interpreter
from rlhfd_emitter import Emitter
from support import DaemonProcess, wait_for

STEPS, RULE, ROLE = 40, "ranks_uneven", "PolicyModelActor"


@pytest.fixture
def daemon(short_dir: Path) -> Iterator[DaemonProcess]:
    process = DaemonProcess(short_dir).start()
    yield process
    process.stop()


def streams(daemon: DaemonProcess, run: str) -> list[dict[str, Any]]:
    """What the daemon knows of the ranks of ``run``."""
    of_run = [stream for one in daemon.status()["runs"] if one["run"] == run for stream in one["streams"]]
    return [stream for stream in of_run if stream["role"] == ROLE]


def train(daemon: DaemonProcess, run: str, positions: tuple[float, float]) -> None:
    """Two ranks that compute so many positions in each of their steps."""
    ranks = [Emitter(run, role=ROLE, rank=i, boot="b", endpoint=daemon.endpoint) for i in (0, 1)]
    for emitter in ranks:
        emitter.event("process_start", world_size=2)
    wait_for(lambda: len(streams(daemon, run)) == 2)  # in a training no rank takes a step before all are there
    for step in range(1, STEPS + 1):
        for emitter, value in zip(ranks, positions, strict=True):
            emitter.emit(step, {"rlhfd/policy/positions": value, "rlhfd/policy/sequence_tokens": value / 2})
    for emitter in ranks:
        emitter.close()
    wait_for(lambda: all(stream["ended"] for stream in streams(daemon, run)))


def test_the_imbalance_of_each_step_is_known_and_one_that_lasts_is_told(daemon: DaemonProcess) -> None:
    train(daemon, "even", (500.0, 500.0))
    train(daemon, "uneven", (100.0, 900.0))
    (alert,) = wait_for(lambda: [each for each in daemon.status()["alerts"] if each["rule"] == RULE])
    assert alert["run"] == "uneven"
    assert alert["severity"] == "info"
    interpreter, found = Interpreter(), dict[tuple[str, str], list[tuple[int | None, float]]]()
    for number, frame in enumerate(daemon.frames()):
        for sample in interpreter.samples(frame, frame.time_ns, number):
            if sample.name.startswith("rlhfd/policy/") and sample.rank is None:
                found.setdefault((sample.run, sample.name.rpartition("/")[2]), []).append((sample.step, sample.value))
    whole = range(1, STEPS + 1)
    for name in ("rank_positions_imbalance", "rank_tokens_imbalance"):
        assert found["even", name] == [(step, 1.0) for step in whole]
        assert found["uneven", name] == [(step, 1.8) for step in whole]
    assert found["uneven", "fullest_rank"] == [(step, 1.0) for step in whole]
