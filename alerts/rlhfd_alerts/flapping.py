"""Flap damping: how long the end of what keeps coming back has to hold before it is believed; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Damping", "recent_openings"]


@dataclass(frozen=True, slots=True)
class Damping:
    """From the ``opening``-th opening within ``window_seconds`` on, an end has to hold ``first_seconds``, with each
    further opening twice as long, at most ``longest_seconds``. ``opening`` 0: every end is told at once."""

    opening: int = 3
    window_seconds: float = 3600.0
    first_seconds: float = 120.0
    longest_seconds: float = 1920.0

    def hold_seconds(self, openings: Sequence[float], now: float) -> float:
        """How long an end at ``now`` has to hold, after ``openings`` at these unix times."""
        count = len(recent_openings(openings, now, self.window_seconds))
        if self.opening <= 0 or count < self.opening:
            return 0.0
        return min(self.first_seconds * 2.0 ** min(count - self.opening, 16), self.longest_seconds)


def recent_openings(openings: Sequence[float], now: float, window_seconds: float) -> list[float]:
    """Those of ``openings`` that are not older than the window; at most the last 64."""
    return [moment for moment in openings if now - moment < window_seconds][-64:]
