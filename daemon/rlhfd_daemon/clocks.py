"""The node's clocks against each other: a step of the wall clock, a machine that slept."""

from __future__ import annotations

import time
from typing import NamedTuple

__all__ = ["Clocks", "changes", "read_clocks"]

MIN_SECONDS = 0.5  # slewing, at most 500 ppm, changes less than that even in a quarter of an hour


class Clocks(NamedTuple):
    """At one moment, in seconds: ``wall`` since the epoch; ``mono``, which does not count while the machine sleeps;
    ``boot``, which does."""

    wall: float
    mono: float
    boot: float


def read_clocks() -> Clocks:
    """All three now."""
    while True:
        mono, wall = time.monotonic(), time.time()
        boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        if time.monotonic() - mono < MIN_SECONDS / 10:  # else this process was stopped between two of them
            return Clocks(wall, mono, boot)


def changes(before: Clocks, after: Clocks) -> dict[str, dict[str, object]]:
    """The events between two moments, with their fields."""
    slept = (after.boot - before.boot) - (after.mono - before.mono)
    stepped = (after.wall - before.wall) - (after.boot - before.boot)
    found: dict[str, dict[str, object]] = {}
    if slept > MIN_SECONDS:
        found["host_suspended"] = {"seconds": round(slept, 3)}
    if abs(stepped) > MIN_SECONDS:
        direction = "forward" if stepped > 0 else "backward"
        found["clock_stepped"] = {"seconds": round(abs(stepped), 3), "direction": direction}
    return found
