"""Many verdicts as few numbers, with bootstrap intervals over runs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from detecting.scoring import Verdict

__all__ = ["Interval", "Summary", "interval", "quantile", "summary"]

DRAWS = 400
SEED = 20260


@dataclass(frozen=True)
class Interval:
    """A value and the 90 % interval of it; all are NaN where there is nothing to measure."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """Delays are steps; ``misnamed_first`` and ``misnamed`` are shares of what was found, by :class:`Verdict`."""

    runs: int
    found: int
    recall: Interval
    median_delay: Interval
    p90_delay: Interval
    false_per_1000: Interval
    false_episodes: int
    clean_steps: int
    misnamed_first: float
    misnamed: float
    episodes_per_fault: float


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def interval(verdicts: Sequence[Verdict], measure: Callable[[Sequence[Verdict]], float]) -> Interval:
    """``measure`` of the runs, and how it varies if they are drawn again with replacement."""
    value = measure(verdicts)
    if math.isnan(value) or len(verdicts) < 2:
        return Interval(value, value, value)
    draw = random.Random(SEED)
    drawn = [measure(draw.choices(verdicts, k=len(verdicts))) for _ in range(DRAWS)]
    known = [one for one in drawn if not math.isnan(one)]
    return Interval(value, quantile(known, 0.05), quantile(known, 0.95))


def summary(verdicts: Sequence[Verdict]) -> Summary:
    """Of one group of runs, healthy ones included."""
    faulty = [one for one in verdicts if one.label.is_scored]
    found = [one for one in faulty if one.found]
    return Summary(
        runs=len(faulty),
        found=len(found),
        recall=interval(faulty, _recall),
        median_delay=interval(faulty, _median_delay),
        p90_delay=interval(faulty, _p90_delay),
        false_per_1000=interval(verdicts, _false_per_1000),
        false_episodes=sum(one.false_episodes for one in verdicts),
        clean_steps=sum(one.label.clean_steps for one in verdicts),
        misnamed_first=_share([not one.named_first for one in found]),
        misnamed=_share([not one.named for one in found]),
        episodes_per_fault=_share([one.fault_episodes for one in found]),
    )


def _recall(verdicts: Sequence[Verdict]) -> float:
    return _share([one.found for one in verdicts])


def _delays(verdicts: Sequence[Verdict]) -> list[float]:
    return [one.delay for one in verdicts if one.delay is not None]


def _median_delay(verdicts: Sequence[Verdict]) -> float:
    delays = _delays(verdicts)
    return median(delays) if delays else math.nan


def _p90_delay(verdicts: Sequence[Verdict]) -> float:
    return quantile(_delays(verdicts), 0.9)


def _false_per_1000(verdicts: Sequence[Verdict]) -> float:
    clean = sum(one.label.clean_steps for one in verdicts)
    return 1000 * sum(one.false_episodes for one in verdicts) / clean if clean else math.nan


def _share(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
