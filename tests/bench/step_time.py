"""What a real PPO run on this machine feels of rlhfd: step times of paired runs, in turn, several rounds.

Usage: PYTHONPATH=tests python tests/bench/step_time.py [ROUNDS], after `make test-openrlhf`, which leaves the
environment with rlhfd in it. Prints the median step time in seconds over all rounds, the first three steps of each
run left out.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

from openrlhf.conftest import rows, under_rlhfd
from openrlhf.lab import Lab
from openrlhf.ray_head import ray_head
from openrlhf.runs import start_ppo
from support import DaemonProcess

STEPS = 40


def main(rounds: int) -> None:
    lab = Lab.find()
    times: dict[str, list[float]] = {"plain": [], "no daemon": [], "daemon": []}
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as directory, ray_head(lab) as ray:
        folder = Path(directory)
        daemon = DaemonProcess(folder).start()
        prefixes = {
            "plain": (),
            "no daemon": under_rlhfd(lab, "absent", f"ipc://{folder}/none.sock"),
            "daemon": under_rlhfd(lab, "watched", daemon.endpoint),
        }
        try:
            for number in range(rounds):
                for name, prefix in prefixes.items():
                    trace = folder / f"{number}-{name}.jsonl"
                    log = trace.with_suffix(".log")
                    with start_ppo(lab, ray, "run", steps=STEPS, log=log, trace=trace, prefix=prefix) as process:
                        if process.wait(900) != 0:
                            raise SystemExit(process.tail())
                    times[name] += [row["train/timing/step_total"] for row in rows(trace)[3:]]
        finally:
            daemon.stop()
    plain = median(times["plain"])
    for name, values in times.items():
        print(f"{name:12s}{median(values):8.3f} s  {(median(values) / plain - 1) * 100:+6.1f} %")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
