"""What PPO feels of rlhfd when there is no daemon, or when rlhfd itself is broken: nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pytest

from openrlhf.lab import Lab
from openrlhf.runs import rows, start_ppo, under_rlhfd
from support import running_daemon

PAIRED_STEPS = 16
PAIRS = 3  # a machine that does something else may lengthen one run or another; what rlhfd does lengthens each
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
    attached = under_rlhfd(lab, "x", f"ipc://{folder}/none.sock")
    for pair in range(PAIRS):
        kinds = {f"plain-{pair}": (), f"attached-{pair}": attached}
        plain, beside = (median(run(lab, ray, folder, name, PAIRED_STEPS, kinds[name])) for name in kinds)
        with capsys.disabled():
            print(f"\nmedian step time: plain {plain:.3f} s, attached {beside:.3f} s")
        if beside < LONGER * plain:
            return
    pytest.fail(f"each of {PAIRS} attached runs took {LONGER} times as long as the plain one before it")


def test_a_broken_emitter_leaves_the_run_as_it_is(lab: Lab, ray: str, folder: Path) -> None:
    def run_broken(broken: str) -> None:
        run(lab, ray, folder, broken, 3, under_rlhfd(lab, broken, daemon.endpoint), LAB_BREAK_RLHFD=broken)

    with running_daemon(folder) as daemon, ThreadPoolExecutor(2) as pool:
        list(pool.map(run_broken, ("raise", "unimportable")))
        assert not [frame for frame in daemon.frames() if frame.kind == "metrics"]
