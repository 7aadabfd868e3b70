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
LONGER = 1.25  # what a hook that waits for a daemon would exceed by far


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


def test_without_a_daemon_the_run_ends_the_same_and_its_steps_are_not_much_longer(
    lab: Lab, ray: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefixes = {"plain": (), "attached": under_rlhfd(lab, "x", f"ipc://{folder}/none.sock")}
    order = ("plain", "attached", "attached", "plain")  # a drift of the machine meets both
    times = [
        median(run(lab, ray, folder, f"{kind}-{number}", PAIRED_STEPS, prefixes[kind]))
        for number, kind in enumerate(order)
    ]
    longer = times[1] / times[0], times[2] / times[3]
    with capsys.disabled():
        print("\nmedian step time:", ", ".join(f"{kind} {each:.3f} s" for kind, each in zip(order, times, strict=True)))
    # What else the machine does may well lengthen one run by so much; what rlhfd does lengthens both.
    assert min(longer) < LONGER


@pytest.mark.parametrize("broken", ["raise", "unimportable"])
def test_a_broken_emitter_leaves_the_run_as_it_is(lab: Lab, ray: str, folder: Path, broken: str) -> None:
    daemon = DaemonProcess(folder).start()
    try:
        run(lab, ray, folder, broken, 3, under_rlhfd(lab, broken, daemon.endpoint), LAB_BREAK_RLHFD=broken)
        assert not [frame for frame in daemon.frames() if frame.kind == "metrics"]
    finally:
        daemon.stop()
