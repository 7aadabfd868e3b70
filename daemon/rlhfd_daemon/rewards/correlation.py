"""Correlations with confidence intervals, over all samples or inside strata (steps, prompts)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import atanh, fsum, isfinite, sqrt, tanh

from rlhfd_daemon.rewards.special import NORMAL_95, normal_two_sided

__all__ = ["Comoments", "Correlation", "differ", "partial", "pearson", "ranks", "spearman", "within"]

LEAST = 8  # pairs beyond one for each stratum
_FLAT = 1e-12  # a spread below this share of the size of the values is rounding


@dataclass(frozen=True, slots=True)
class Correlation:
    """``r`` of ``count`` pairs between ``low`` and ``high`` by Fisher's z. ``degrees`` are what pairs are left after
    a mean for each stratum, plus one: for one stratum the count itself. ``slope`` is of y on x."""

    r: float
    low: float
    high: float
    count: int
    degrees: int
    slope: float

    @property
    def p_value(self) -> float:
        """Of a correlation as far from 0 by chance, by Fisher's z."""
        return 0.0 if abs(self.r) >= 1 else normal_two_sided(atanh(self.r) * sqrt(self.degrees - 3))

    @property
    def sure(self) -> float:
        """The end of the interval that is nearer to 0; 0 if the interval holds it."""
        if self.low > 0 or self.high < 0:
            return self.low if self.low > 0 else self.high
        return 0.0


@dataclass(slots=True)
class Comoments:
    """Count, means and sums of products of deviations of pairs (x, y); two of them merge (Chan et al. 1979). The
    error against the exact sums is that of the floating point only."""

    count: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    def add(self, x: float, y: float) -> None:
        """Take one pair of finite values (Welford 1962)."""
        self.count += 1
        dx, dy = x - self.x, y - self.y
        self.x += dx / self.count
        self.y += dy / self.count
        self.xx += dx * (x - self.x)
        self.xy += dx * (y - self.y)
        self.yy += dy * (y - self.y)

    def merge(self, other: Comoments) -> None:
        """Take all pairs of ``other``, as if they had come here."""
        count = self.count + other.count
        if not count:
            return
        dx, dy, weight = other.x - self.x, other.y - self.y, self.count * other.count / count
        self.xx += other.xx + dx * dx * weight
        self.xy += other.xy + dx * dy * weight
        self.yy += other.yy + dy * dy * weight
        self.x += dx * other.count / count
        self.y += dy * other.count / count
        self.count = count

    def correlation(self, strata: int = 1, z: float = NORMAL_95, ranked: bool = False) -> Correlation | None:
        """``None`` where there are too few pairs, or one side does not vary."""
        degrees = self.count - strata + 1
        flat_x = self.xx <= (_FLAT * abs(self.x)) ** 2 * self.count
        flat_y = self.yy <= (_FLAT * abs(self.y)) ** 2 * self.count
        if degrees < LEAST or flat_x or flat_y:
            return None
        r = max(-1.0, min(1.0, self.xy / sqrt(self.xx * self.yy)))
        low, high = _interval(r, degrees, z, ranked)
        return Correlation(r, low, high, self.count, degrees, self.xy / self.xx)


def _interval(r: float, degrees: int, z: float, ranked: bool) -> tuple[float, float]:
    """Fisher 1921; for ranks with the variance of Bonett and Wright 2000."""
    if abs(r) >= 1:
        return r, r
    half = z * sqrt((1 + r * r / 2 if ranked else 1.0) / (degrees - 3))
    return tanh(atanh(r) - half), tanh(atanh(r) + half)


def pearson(x: Sequence[float], y: Sequence[float], z: float = NORMAL_95) -> Correlation | None:
    """Of the pairs of which both are finite."""
    return _over(_finite(x, y), z)


def spearman(x: Sequence[float], y: Sequence[float], z: float = NORMAL_95) -> Correlation | None:
    """Pearson's correlation of the ranks, ties with their mean rank."""
    pairs = _finite(x, y)
    if len(pairs) < LEAST:
        return None
    ranked = zip(ranks([one for one, _ in pairs]), ranks([other for _, other in pairs]), strict=True)
    return _over(list(ranked), z, ranked=True)


def within(
    x: Sequence[float], y: Sequence[float], strata: Sequence[Hashable], z: float = NORMAL_95
) -> Correlation | None:
    """Pearson's correlation of the deviations from the mean of each stratum: what rises over the run in both, or makes
    a prompt both long and hard, is no correlation here. Each stratum costs a degree of freedom."""
    by_stratum: dict[Hashable, Comoments] = {}
    for one, other, stratum in zip(x, y, strata, strict=True):
        if isfinite(one) and isfinite(other):
            by_stratum.setdefault(stratum, Comoments()).add(one, other)
    pooled = Comoments()
    for part in by_stratum.values():
        pooled.merge(Comoments(part.count, 0.0, 0.0, part.xx, part.xy, part.yy))
    return pooled.correlation(max(1, len(by_stratum)), z)


def partial(xy: float, xz: float, yz: float) -> float | None:
    """The correlation of x and y with z held fixed, from the three pairwise ones."""
    rest = (1 - xz * xz) * (1 - yz * yz)
    return max(-1.0, min(1.0, (xy - xz * yz) / sqrt(rest))) if rest > 0 else None


def differ(one: Correlation, other: Correlation) -> float:
    """The p-value of two correlations of independent samples being one, by Fisher's z."""
    if abs(one.r) >= 1 or abs(other.r) >= 1:
        return 1.0 if one.r == other.r else 0.0
    error = sqrt(1 / (one.degrees - 3) + 1 / (other.degrees - 3))
    return normal_two_sided((atanh(one.r) - atanh(other.r)) / error)


def ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values have their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end + 1 < len(order) and values[order[end + 1]] == values[order[at]]:
            end += 1
        for position in order[at : end + 1]:
            found[position] = (at + end) / 2 + 1
        at = end + 1
    return found


def _finite(x: Iterable[float], y: Iterable[float]) -> list[tuple[float, float]]:
    return [(one, other) for one, other in zip(x, y, strict=True) if isfinite(one) and isfinite(other)]


def _over(pairs: Sequence[tuple[float, float]], z: float, ranked: bool = False) -> Correlation | None:
    """With exact sums, since all pairs are there."""
    count = len(pairs)
    if not count:
        return None
    x, y = fsum(one for one, _ in pairs) / count, fsum(other for _, other in pairs) / count
    xx = fsum((one - x) ** 2 for one, _ in pairs)
    yy = fsum((other - y) ** 2 for _, other in pairs)
    xy = fsum((one - x) * (other - y) for one, other in pairs)
    return Comoments(count, x, y, xx, xy, yy).correlation(1, z, ranked)
