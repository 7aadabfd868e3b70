"""Makes the recordings of `tests/daemon/test_reward_faults.py`: real PPO runs whose reward goes wrong at step 25.

Usage: python -m openrlhf.make_reward_runs FOLDER [NAME ...], in tests/, with rlhfd installed in the OpenRLHF
environment (as `make test-openrlhf` leaves it). A run takes two to five minutes; names as in ``RUNS``.
"""

from __future__ import annotations

import lzma
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from openrlhf.conftest import CHECKOUT
from openrlhf.lab import Lab
from openrlhf.make_recording import neutral
from openrlhf.ray_head import ray_head
from openrlhf.runs import VARIANTS, start_ppo, under_rlhfd
from support import DaemonProcess

__all__ = ["FAULT_STEP", "RUNS", "STEPS"]

STEPS, FAULT_STEP = 60, 25
BASELINE = ("--algo.advantage.estimator", "reinforce_baseline")


class Run(NamedTuple):
    """One recording: the reward's fault from ``FAULT_STEP`` on, and the arguments that make another estimator."""

    reward: str = "healthy"
    extra: Sequence[str] = ()


RUNS = {
    "healthy_gae": Run(),
    "healthy_group_norm": Run(extra=VARIANTS["grpo"]),
    "healthy_reinforce_baseline": Run(extra=BASELINE),
    "const": Run("const", VARIANTS["grpo"]),
    "noise": Run("noise"),
    "flip": Run("flip", VARIANTS["grpo"]),
    "some_nan": Run("some_nan"),
    "length": Run("length", VARIANTS["grpo"]),
    "repetition": Run("repetition", BASELINE),
    "slower": Run("slower"),
    "changed": Run("changed"),
    "scaled": Run("scaled", BASELINE),
}


def main(to: Path, names: Sequence[str]) -> None:
    lab = Lab.find()
    with ray_head(lab) as ray:
        for name in names or RUNS:
            with tempfile.TemporaryDirectory(prefix="rlhfd-") as directory:
                folder = Path(directory)
                record(lab, ray, folder, name)
                places = {str(folder): "/runs", str(lab.root): "/lab", str(CHECKOUT): "/rlhfd"}
                segment = neutral(folder / "state" / "frames", folder / "neutral", places)
            (to / f"{name}.log.xz").write_bytes(lzma.compress(segment, preset=9))
            print(name, flush=True)


def record(lab: Lab, ray: str, folder: Path, name: str) -> None:
    """One run under observation; its frame log is in ``folder/state/frames`` afterwards."""
    run = RUNS[name]
    daemon = DaemonProcess(folder).start()
    try:
        with start_ppo(
            lab, ray, name,
            steps=STEPS,
            reward=run.reward,
            fault_step=FAULT_STEP if run.reward != "healthy" else 0,
            env={"LAB_CALL_SECONDS": "0.02"} if run.reward == "slower" else {},
            extra=run.extra,
            log=folder / "ppo.log",
            prefix=under_rlhfd(lab, name, daemon.endpoint),
        ) as process:  # fmt: skip
            if process.wait(900) != 0:
                raise SystemExit(process.tail())
    finally:
        daemon.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
