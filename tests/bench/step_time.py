"""What a real PPO run on this machine feels of rlhfd: step times of paired runs, in turn, several rounds.

Usage: PYTHONPATH=tests python tests/bench/step_time.py [ROUNDS], after `make test-openrlhf`, which leaves the
environment with rlhfd in it. A round runs OpenRLHF plainly, under rlhfd with a daemon, under rlhfd without one, and
plainly again, each round in another order. A step is from its logging to that of the next one. A pair compares a run
with the first plain one of its round: the median of the ratios of the same steps, the first three left out. Two plain
runs differ only by noise.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from openrlhf.lab import Lab
from openrlhf.ray_head import ray_head
from openrlhf.runs import rows, start_ppo, under_rlhfd
from support import DaemonProcess

STEPS, WARM_UP = 40, 3
PLAIN, AGAIN = "plain", "plain again"

Times = dict[str, list[list[float]]]


def measure(rounds: int) -> Times:
    """The step times in seconds of every run, by its kind, one list a round."""
    lab = Lab.find()
    times: Times = {PLAIN: [], "daemon": [], "no daemon": [], AGAIN: []}
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as directory, ray_head(lab) as ray:
        folder = Path(directory)
        daemon = DaemonProcess(folder).start()
        prefixes = {
            "no daemon": under_rlhfd(lab, "absent", f"ipc://{folder}/none.sock"),
            "daemon": under_rlhfd(lab, "watched", daemon.endpoint),
        }
        try:
            for number in range(rounds):
                kinds = list(times)
                for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
                    trace = folder / f"{number}-{kind.replace(' ', '-')}.jsonl"
                    log, prefix = trace.with_suffix(".log"), prefixes.get(kind, ())
                    with start_ppo(lab, ray, "run", steps=STEPS, log=log, trace=trace, prefix=prefix) as process:
                        if process.wait(1500) != 0:
                            raise SystemExit(process.tail())
                    times[kind].append(step_seconds([row["time"] for row in rows(trace)]))
                medians = [f"{kind} {median(run[-1]):.3f} s" for kind, run in times.items()]
                print(f"round {number + 1}:", ", ".join(medians), flush=True)
        finally:
            daemon.stop()
    return times


def step_seconds(logged: Sequence[float]) -> list[float]:
    """From one step's logging to the next, the logging included; ``logged`` are Unix seconds of each step."""
    return [later - earlier for earlier, later in pairwise(logged[WARM_UP - 1 :])]


def pairs(runs: Sequence[Sequence[float]], plain: Sequence[Sequence[float]]) -> list[float]:
    """How much slower, in percent, each run was than the plain one of its round."""
    return [
        (median(one / other for one, other in zip(*pair, strict=True)) - 1) * 100
        for pair in zip(runs, plain, strict=True)
    ]


def main(rounds: int) -> None:
    times = measure(rounds)
    print(f"{'':12s}{'median step':>12s}{'median pair':>13s}   lowest to highest pair")
    for kind, runs in times.items():
        found = pairs(runs, times[PLAIN])
        print(f"{kind:12s}{median(one for run in runs for one in run):10.3f} s", end="")
        print("" if kind == PLAIN else f"{median(found):+11.2f} %   {min(found):+.2f} to {max(found):+.2f} %")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
