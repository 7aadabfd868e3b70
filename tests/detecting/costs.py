"""What the analyzers cost: CPU per step early and late, a million samples, memory of one run."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

from detecting.generator import Course, Habits, rows
from detecting.logs import Analyzers, ours
from rlhfd_daemon.analyzers.dispatch import Dispatch
from rlhfd_daemon.sample import Sample

__all__ = ["Costs", "costs", "stream"]

METRICS = 20
EARLY, LATE, ALL = 300, 20_000, 50_000  # steps; all of them are a million samples
SETTLED = 2000
SECONDS = 30.0


@dataclass(frozen=True)
class Costs:
    """CPU time on this machine; memory as Python counts it. ``early`` and ``late``: at step 300 and 20,000."""

    early_microseconds: float  # per step of 20 metrics
    late_microseconds: float
    million_seconds: float  # a million samples
    early_kib: float  # held by the analyzers for one run
    late_kib: float


def costs(analyzers: Analyzers = ours) -> Costs:
    dispatch = Dispatch(analyzers())
    spent = [_timed(dispatch, step) for step in stream(ALL)]
    early, late = (
        median(sum(spent[end - 10 : end]) / 10 for end in range(at - 90, at + 1, 10)) for at in (EARLY, LATE)
    )
    early_kib, late_kib = _memory(analyzers, (EARLY, LATE))
    return Costs(early / 1e3, late / 1e3, sum(spent) / 1e9 * 1e6 / (ALL * METRICS), early_kib, late_kib)


def stream(steps: int) -> Iterator[list[Sample]]:
    """A healthy run's samples, step by step, the same every time. When its curves have settled, it goes back and forth
    over the later half of them."""
    values = _values()
    half = SETTLED // 2
    for step in range(1, steps + 1):
        beyond = (step - SETTLED - 1) % SETTLED
        at = step - 1 if step <= SETTLED else SETTLED - 1 - beyond if beyond < half else beyond
        time_ = 1e9 + SECONDS * step
        yield [Sample("run", "boot", "PPOTrainer", 0, step, name, value, time_, step) for name, value in values[at]]


@cache
def _values() -> list[list[tuple[str, float]]]:
    draw = random.Random(1)
    habits = Habits("ppo", "gauss", SETTLED, 1.0, None, 0.0, 0.0, False, None, 0.004)
    made = [row.metrics for row in rows(Course(habits, draw)) if "train/kl" in row.metrics]
    return [list(metrics.items())[:METRICS] for metrics in made]


def _feed(dispatch: Dispatch, step: Sequence[Sample]) -> None:
    """One step, as the pipeline gives it."""
    dispatch.tick(step[0].time)
    dispatch.observe(step)


def _timed(dispatch: Dispatch, step: Sequence[Sample]) -> int:
    before = time.process_time_ns()
    _feed(dispatch, step)
    return time.process_time_ns() - before


def _memory(analyzers: Analyzers, at: Sequence[int]) -> list[float]:
    """KiB that the analyzers hold after each of the steps ``at``."""
    found = []
    _values()  # not theirs
    tracemalloc.start()
    try:
        dispatch = Dispatch(analyzers())
        empty = _held()
        for number, step in enumerate(stream(max(at)), 1):
            _feed(dispatch, step)
            if number in at:
                found.append((_held() - empty) / 1024)
    finally:
        tracemalloc.stop()
    return found


def _held() -> int:
    return tracemalloc.get_traced_memory()[0]
