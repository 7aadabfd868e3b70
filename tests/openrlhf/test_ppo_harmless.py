"""What PPO feels of rlhfd when there is no daemon, or when rlhfd itself is broken: nothing."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from openrlhf.conftest import rows, under_rlhfd
from openrlhf.lab import Lab
from openrlhf.runs import start_ppo
from support import DaemonProcess

PAIRED_STEPS = 24


def run(lab: Lab, ray: str, folder: Path, name: str, steps: int, prefix: tuple[str, ...], **env: str) -> list[float]:
    """Step times in seconds, the first (which compiles) left out; the run must end well and log every step."""
    trace = folder / f"{name}.jsonl"
    with start_ppo(
        lab, ray, name, steps=steps, log=folder / f"{name}.log", trace=trace, prefix=prefix, env=env
    ) as process:
        assert process.wait(600) == 0, process.tail()
    logged = rows(trace)
    assert [row["step"] for row in logged] == list(range(1, steps + 1))
    return [row["train/timing/step_total"] for row in logged[1:]]


def test_without_a_daemon_the_run_ends_the_same_and_the_step_time_is_reported(
    lab: Lab, ray: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefixes = {"plain": (), "attached": under_rlhfd(lab, "x", f"ipc://{folder}/none.sock")}
    times: dict[str, list[float]] = {name: [] for name in prefixes}
    for number, name in enumerate(("plain", "attached", "attached", "plain")):  # a drift of the machine meets both
        times[name] += run(lab, ray, folder, f"{name}-{number}", PAIRED_STEPS, prefixes[name])
    before, after = median(times["plain"]), median(times["attached"])
    with capsys.disabled():
        print(f"\nmedian step time: plain {before:.3f} s, attached without a daemon {after:.3f} s "
              f"({(after / before - 1) * 100:+.1f} %)")  # fmt: skip


@pytest.mark.parametrize("broken", ["raise", "unimportable"])
def test_a_broken_emitter_leaves_the_run_as_it_is(lab: Lab, ray: str, folder: Path, broken: str) -> None:
    daemon = DaemonProcess(folder).start()
    try:
        run(lab, ray, folder, broken, 3, under_rlhfd(lab, broken, daemon.endpoint), LAB_BREAK_RLHFD=broken)
        assert not [frame for frame in daemon.frames() if frame.kind == "metrics"]
    finally:
        daemon.stop()
