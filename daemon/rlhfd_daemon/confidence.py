"""How sure it is that an episode is trouble: from how many metrics of how many families say so, and how loudly."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple

from rlhfd_alerts.finding import Finding, Severity

__all__ = ["Witness", "confidence", "witness"]

_WEIGHTS = {Severity.INFO: 0.2, Severity.WARNING: 0.7, Severity.CRITICAL: 0.9}
_HALF_WAY = 5.0  # spreads from the usual at which a value has half of what distance can give
_UNKNOWN = 0.5
_MIN_BEFORE = 4
_MAD = 1.4826  # median absolute deviation to standard deviation, of a normal distribution


class Witness(NamedTuple):
    """How strongly one finding speaks, 0 to 1."""

    family: str
    metric: str
    strength: float


def witness(finding: Finding) -> Witness:
    """Its severity's weight (0.2, 0.7, 0.9) times (1 + reach) / 2; see :func:`reach`."""
    return Witness(finding.family, finding.metric, _WEIGHTS[finding.severity] * (1 + reach(finding)) / 2)


def confidence(witnesses: Iterable[Witness]) -> float:
    """0 to 1, in hundredths: 1 - product of (1 - s / 2^k) over the metrics.

    s is the strength of the metric's strongest witness; k numbers the metrics of one family, the strongest is 0: they
    are not independent of each other.
    """
    strongest: dict[tuple[str, str], float] = {}
    for family, metric, strength in witnesses:
        strongest[family, metric] = max(strongest.get((family, metric), 0.0), strength)
    families: dict[str, list[float]] = {}
    for (family, _), strength in strongest.items():
        families.setdefault(family, []).append(strength)
    doubt = 1.0
    for _, strengths in sorted(families.items()):
        for place, strength in enumerate(sorted(strengths, reverse=True)):
            doubt *= 1 - strength / 2**place
    return round(1 - doubt, 2)


def reach(finding: Finding) -> float:
    """How far beyond the usual, 0 to 1: z / (z + 5), z in robust spreads of the evidence before the onset.

    1 for what is not finite and for an event, which is not a matter of degree; 0.5 where too little is known.
    """
    value = finding.value
    if value is None or not math.isfinite(value):
        return 1.0
    before = [one for step, one in finding.evidence if _is_before(step, finding.onset_step) and math.isfinite(one)]
    if len(before) < _MIN_BEFORE:
        return _UNKNOWN
    usual = finding.baseline
    centre = usual if usual is not None and math.isfinite(usual) else statistics.median(before)
    spread = _MAD * statistics.median(abs(one - centre) for one in before)
    z = abs(value - centre) / max(spread, abs(centre) * 1e-3, 1e-9)
    return z / (z + _HALF_WAY) if math.isfinite(z) else 1.0


def _is_before(step: int | None, onset: int | None) -> bool:
    return step is not None and onset is not None and step < onset
