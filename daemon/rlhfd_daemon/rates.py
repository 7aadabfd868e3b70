"""From counters to rates: what grows, by how much a second, and when a counter is not to be believed."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Rates", "growth_per_second"]

MAX_PER_SECOND = 1e13  # bytes: 10 TB/s is more than any node moves


def growth_per_second(
    before: Mapping[str, int], after: Mapping[str, int], seconds: float, most: float = MAX_PER_SECOND
) -> float | None:
    """By how much the counters that are in both have grown together, per second. Unknown if one of them went back (it
    was reset, or has wrapped), if none is in both, if no time passed, and if it is more than ``most``."""
    growths = [value - before[name] for name, value in after.items() if name in before]
    if not growths or min(growths) < 0 or seconds <= 0:
        return None
    rate = sum(growths) / seconds
    return rate if rate <= most else None


class Rates:
    """Remembers the counters of each rate. After one that is not believed it starts again from the new values."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Mapping[str, int], float]] = {}

    def per_second(self, name: str, counters: Mapping[str, int], now: float) -> float | None:
        """The rate ``name`` since the last call, of the sum of ``counters``; ``now`` in monotonic seconds."""
        before, then = self._last.get(name, ({}, now))
        self._last[name] = (counters, now)
        return growth_per_second(before, counters, now - then)
