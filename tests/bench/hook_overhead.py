"""What each hook adds to a step of the CPU PPO run: microseconds by hook, all processes of the run together.

Usage: PYTHONPATH=tests python tests/bench/hook_overhead.py [STEPS], after `make test-openrlhf`, which leaves the
environment with rlhfd in it. A step is from its logging to that of the next one, each figure the median over the
steps, the first three left out. A hook's stretches are what runs of ours before and after OpenRLHF's function, and
those named ``thread.`` what runs beside it; a stretch inside another, as those named ``signals.``, is counted once, in
its own row. Counted is the CPU of the thread: on the wall's clock (the last column) a stretch has the time in which
others had the core or the interpreter, too. The sum takes processes that work at the same time one after the other,
and adds what the wrappers themselves cost, measured here.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

from openrlhf.lab import Lab
from openrlhf.ray_head import ray_head
from openrlhf.runs import rows, start_ppo, under_rlhfd
from rlhfd_emitter.hook import attach
from rlhfd_emitter.process import Process
from rlhfd_emitter.wrappers import before
from support import DaemonProcess

STEPS, WARM_UP = 40, 3
CALLS = 20_000
INSIDE = ("signals.", "thread.")  # what has no wrapper of its own


class Stretch(NamedTuple):
    """One stretch of our code, without the stretches inside it: when it ended (Unix seconds), whose it was, and its
    microseconds by the clock of its thread and by the clock on the wall."""

    time: float
    hook: str
    cpu: float
    wall: float


Steps = dict[str, list[list[Stretch]]]


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


def by_step(stretches: Sequence[Stretch], ends: Sequence[float]) -> Steps:
    """The stretches of each hook, step by step. ``ends``: of the step before the first and of each."""
    found: Steps = defaultdict(lambda: [[] for _ in ends[1:]])
    for one in stretches:
        step = bisect_left(ends, one.time) - 1
        if 0 <= step < len(ends) - 1:
            found[one.hook][step].append(one)
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


def report(found: Steps, step_seconds: float) -> None:
    print(f"{'hook':100s}{'stretches':>10s}{'µs each':>10s}{'µs a step':>11s}{'by the wall':>13s}")
    for name, steps in sorted(found.items(), key=lambda item: -a_step(item[1])):
        each = median(one.cpu for step in steps for one in step)
        by_wall = median(sum(one.wall for one in step) for step in steps)
        print(f"{name:100s}{median(map(len, steps)):10.0f}{each:10.1f}{a_step(steps):11.1f}{by_wall:13.1f}")
    whole = [[one for step in steps for one in step] for steps in zip(*found.values(), strict=True)]
    wrapped = [steps for name, steps in found.items() if not name.startswith(INSIDE)]
    calls, wrapper = median(sum(map(len, steps)) for steps in zip(*wrapped, strict=True)), wrapper_microseconds()
    print(f"{'the wrappers themselves, at most':100s}{calls:10.0f}{wrapper:10.1f}{calls * wrapper:11.1f}")
    total = a_step(whole) + calls * wrapper
    print(f"{'together':120s}{total:11.1f}{median(sum(one.wall for one in step) for step in whole):13.1f}")
    print(f"median step {step_seconds:.3f} s: {total / step_seconds / 1e4:.3f} % of it")


def a_step(steps: Sequence[Sequence[Stretch]]) -> float:
    """The microseconds of CPU of a step, the median."""
    return median(sum(one.cpu for one in step) for step in steps)


def main(steps: int) -> None:
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as directory:
        stretches, logged = observe(steps, Path(directory))
    ends = logged[WARM_UP - 1 :]
    report(by_step(stretches, ends), median(later - earlier for earlier, later in pairwise(ends)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
