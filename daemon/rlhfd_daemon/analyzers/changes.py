"""What a track tells of its series: a change that begins or ends, and a drift that may become one."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["STILL", "Change", "Drift"]


class Change(NamedTuple):
    """What has begun or ended. ``kind`` is a rule; values in the metric's unit; ``since``: how many values ago."""

    kind: str
    is_active: bool
    is_up: bool
    expected: float
    scale: float
    recent: float
    since: int
    new_level: bool = False


class Drift(NamedTuple):
    """``sigmas`` to the side that was asked for; ``recent`` and ``expected`` in the metric's unit, of which the series
    has ``covered`` so much."""

    sigmas: float
    recent: float
    expected: float
    covered: float


STILL = Drift(0.0, 0.0, 0.0, 1.0)
