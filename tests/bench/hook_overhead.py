"""What each hook adds to a step of the CPU PPO run: microseconds by hook, all processes of the run together.

Usage: PYTHONPATH=tests python tests/bench/hook_overhead.py [STEPS], after `make test-openrlhf`, which leaves the
environment with rlhfd in it. A step is from its logging to that of the next one, each figure the median over the
steps, the first three left out. A hook's stretches are what runs of ours before and after OpenRLHF's function; those
named ``signals.`` are part of another hook and not added to the sum. The sum takes processes that work at the same
time one after the other, and adds what the wrappers themselves cost, measured here.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

from openrlhf.conftest import rows, under_rlhfd
from openrlhf.lab import Lab
from openrlhf.ray_head import ray_head
from openrlhf.runs import start_ppo
from rlhfd_emitter.hook import attach
from rlhfd_emitter.process import Process
from rlhfd_emitter.wrappers import before
from support import DaemonProcess

STEPS, WARM_UP = 40, 3
CALLS = 20_000


class Stretch(NamedTuple):
    """One stretch of our code: when it ended (Unix seconds), whose it was, and how long it took."""

    time: float
    hook: str
    microseconds: float


def observe(steps: int, folder: Path) -> tuple[list[Stretch], list[float]]:
    """A run under a daemon: all stretches, and when each step was logged (Unix seconds)."""
    lab, costs = Lab.find(), folder / "costs"
    costs.mkdir()
    trace, log = folder / "trace.jsonl", folder / "ppo.log"
    with ray_head(lab) as ray:
        daemon = DaemonProcess(folder).start()
        prefix, env = under_rlhfd(lab, "overhead", daemon.endpoint), {"LAB_OVERHEAD": str(costs)}
        try:
            with start_ppo(lab, ray, "run", steps=steps, log=log, trace=trace, prefix=prefix, env=env) as process:
                if process.wait(1500) != 0:
                    raise SystemExit(process.tail())
        finally:
            daemon.stop()
    found = [Stretch(*json.loads(line)) for path in costs.iterdir() for line in path.read_text().splitlines()]
    return found, [row["time"] for row in rows(trace)]


def by_step(stretches: Sequence[Stretch], ends: Sequence[float]) -> dict[str, list[list[float]]]:
    """The microseconds of each hook's stretches, step by step. ``ends``: of the step before the first and of each."""
    found: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in ends[1:]])
    for one in stretches:
        step = bisect_left(ends, one.time) - 1
        if 0 <= step < len(ends) - 1:
            found[one.hook][step].append(one.microseconds)
    return found


def wrapper_microseconds() -> float:
    """What a wrapper costs per call, over and above the stretch of ours that it times."""
    process = Process()
    hook = process.hook("bench")
    attached = attach(hook, before(lambda process, arguments: None), process, lambda: None)
    began = time.perf_counter()
    for _ in range(CALLS):
        attached()
    return (time.perf_counter() - began - hook.seconds) / CALLS * 1e6


def report(found: Mapping[str, list[list[float]]], step_seconds: float) -> None:
    print(f"{'hook':100s}{'stretches':>10s}{'µs each':>10s}{'µs a step':>11s}")
    for name, steps in sorted(found.items(), key=lambda item: -median(map(sum, item[1]))):
        each = [one for step in steps for one in step]
        shown = f"  {name}" if name.startswith("signals.") else name
        print(f"{shown:100s}{median(map(len, steps)):10.0f}{median(each):10.1f}{median(map(sum, steps)):11.1f}")
    hooks = [steps for name, steps in found.items() if not name.startswith("signals.")]
    ours = [sum(map(sum, step)) for step in zip(*hooks, strict=True)]
    calls = [sum(map(len, step)) for step in zip(*hooks, strict=True)]
    wrapper = wrapper_microseconds()
    wrappers = median(calls) * wrapper
    print(f"{'the wrappers themselves, at most':100s}{median(calls):10.0f}{wrapper:10.1f}{wrappers:11.1f}")
    total = median(ours) + wrappers
    print(f"{'together':121s}{total:10.1f}")
    print(f"median step {step_seconds:.3f} s: {total / step_seconds / 1e4:.3f} % of it")


def main(steps: int) -> None:
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as directory:
        stretches, logged = observe(steps, Path(directory))
    ends = logged[WARM_UP - 1 :]
    report(by_step(stretches, ends), median(later - earlier for earlier, later in pairwise(ends)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
