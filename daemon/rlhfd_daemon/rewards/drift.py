"""Whether two samples come from one distribution: Kolmogorov-Smirnov, population stability index, Brown-Forsythe."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import floor, log, sqrt
from statistics import fmean, median

from rlhfd_daemon.rewards.special import chi2_sf, f_sf, kolmogorov_sf

__all__ = ["PSI_LARGE", "PSI_MODERATE", "Drift", "Spread", "ks", "psi", "spread"]

PSI_MODERATE, PSI_LARGE = 0.1, 0.25  # the usual limits (Siddiqi 2006, Credit Risk Scorecards)
_EXACT_CELLS = 40_000
_BINS = 10
_HALF = 0.5  # added to every bin, so that an empty one has a logarithm


@dataclass(frozen=True, slots=True)
class Drift:
    """``statistic`` and the probability of one as large or larger if both samples were from one distribution."""

    statistic: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Spread:
    """``ratio`` of the standard deviations (current over reference; ``None`` if the reference has none) and the
    p-value of Brown and Forsythe's test (1974) that they are one."""

    ratio: float | None
    p_value: float


def ks(reference: Sequence[float], current: Sequence[float]) -> Drift:
    """The two-sample Kolmogorov-Smirnov test, two-sided. The p-value is exact for up to 40,000 pairs (Hodges 1958),
    otherwise from the limiting distribution. With ties it is too large, never too small.

    :raises ValueError: a sample is empty.
    """
    if not reference or not current:
        raise ValueError("ks needs two samples that are not empty")
    left, right = sorted(reference), sorted(current)
    n, m = len(left), len(right)
    # In whole numbers, so that equal distances are equal.
    far = max(abs(bisect_right(left, x) * m - bisect_right(right, x) * n) for x in {*left, *right})
    statistic = far / (n * m)
    if n * m <= _EXACT_CELLS:
        return Drift(statistic, _exact(far, min(n, m), max(n, m)))
    return Drift(statistic, kolmogorov_sf(statistic * sqrt(n * m / (n + m))))


def _exact(far: int, m: int, n: int) -> float:
    """1 minus the share of lattice paths from (0, 0) to (m, n) that stay nearer than ``far / (m * n)``."""
    inside = [0.0 if j * m >= far else 1.0 for j in range(n + 1)]
    for i in range(1, m + 1):
        weight = i / (i + n)
        inside[0] = 0.0 if i * n >= far else weight * inside[0]
        for j in range(1, n + 1):
            near = abs(i * n - j * m) < far
            inside[j] = weight * inside[j] + inside[j - 1] if near else 0.0
    return min(1.0, max(0.0, 1 - inside[n]))


def psi(reference: Sequence[float], current: Sequence[float], bins: int = _BINS) -> Drift:
    """The population stability index over bins of the reference's quantiles; where it has fewer distinct values than
    bins, over these. Below 0.1 is usually called stable, from 0.25 on shifted.

    Chance alone gives ``(bins - 1) * (1/n + 1/m)`` in the mean; the p-value is from that chi-squared (Yurdakul 2018).

    :raises ValueError: a sample is empty.
    """
    if not reference or not current:
        raise ValueError("psi needs two samples that are not empty")
    edges = _edges(sorted(reference), bins)
    if not edges:
        return Drift(*_psi_of_constant(reference, current))
    before, after = _shares(reference, edges), _shares(current, edges)
    index = sum((b - a) * log(b / a) for a, b in zip(before, after, strict=True))
    n, m = len(reference), len(current)
    return Drift(index, chi2_sf(index * n * m / (n + m), len(edges)))


def _psi_of_constant(reference: Sequence[float], current: Sequence[float]) -> tuple[float, float]:
    """A reference of one value has one bin for it, and one for everything else."""
    n, m = len(reference), len(current)
    same = sum(1 for x in current if x == reference[0])
    a, b = (n + _HALF) / (n + 1), (same + _HALF) / (m + 1)
    index = (b - a) * log(b / a) + (a - b) * log((1 - b) / (1 - a))
    return index, chi2_sf(index * n * m / (n + m), 1)


def _edges(ordered: Sequence[float], bins: int) -> list[float]:
    distinct = [value for value, _ in groupby(ordered)]
    if len(distinct) <= bins:
        return [low + (high - low) / 2 for low, high in pairwise(distinct)]
    count = len(ordered)
    found = {ordered[floor(count * k / bins)] for k in range(1, bins)}
    return sorted(found - {ordered[0]})


def _shares(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    """A value at an edge belongs to the bin above."""
    ordered = sorted(values)
    cuts = [0, *(bisect_left(ordered, edge) for edge in edges), len(ordered)]
    total = len(ordered) + _HALF * (len(edges) + 1)
    return [(high - low + _HALF) / total for low, high in pairwise(cuts)]


def spread(reference: Sequence[float], current: Sequence[float]) -> Spread:
    """Whether the spread has changed: Levene's test about the medians, for two samples of at least two values."""
    if len(reference) < 2 or len(current) < 2:
        raise ValueError("spread needs two samples of at least two values")
    deviations = [[abs(value) for value in _centred(one)] for one in (reference, current)]
    n, m = len(reference), len(current)
    means = [fmean(one) for one in deviations]
    between = n * m / (n + m) * (means[0] - means[1]) ** 2
    within = sum((value - mean) ** 2 for one, mean in zip(deviations, means, strict=True) for value in one)
    before, after = _std(reference), _std(current)
    ratio = after / before if before > 0 else None
    if within == 0:
        return Spread(ratio, 1.0 if between == 0 else 0.0)
    return Spread(ratio, f_sf(between / within * (n + m - 2), 1, n + m - 2))


def _centred(values: Sequence[float]) -> list[float]:
    centre = median(values)
    return [value - centre for value in values]


def _std(values: Sequence[float]) -> float:
    mean = fmean(values)
    return sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
