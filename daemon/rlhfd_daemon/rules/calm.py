"""Between which values of a series no rule has anything to do: most values lie there, and cost two comparisons."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Protocol

from rlhfd_daemon.rules.evaluate import Question

__all__ = ["NOWHERE", "Screened", "band"]

Band = tuple[float, float]
NOWHERE: Band = (inf, -inf)


class Screened(Protocol):
    """One rule at one series, with what single values are compared with."""

    @property
    def screen(self) -> Question | None: ...
    @property
    def threshold(self) -> float: ...


def band(looks: Iterable[Screened], value: float) -> Band:
    """The widest interval around ``value``, without its ends, in which no value makes the screening clause of any of
    ``looks`` true; ``value`` itself makes none. A rule that must be looked at whatever the value leaves none."""
    low, high = -inf, inf
    for look in looks:
        question, threshold = look.screen, look.threshold
        if question is None or question.operator == "!=":
            return NOWHERE
        limits = (threshold, -threshold) if question.signal.absolute else (threshold,)
        for limit in limits:
            if limit >= value:
                high = min(high, limit)
            if limit <= value:
                low = max(low, limit)
    return low, high
