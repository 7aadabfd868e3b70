"""Proxy reward against a reward that the policy is not trained on, by distance from the reference policy.

Gao, Schulman and Hilton 2023 (arXiv:2210.10760) find for RL: R(d) = d (alpha - beta log d), d = sqrt(KL), with R the
gain over the start. With an unknown start that is linear in its three numbers, so least squares need no iteration and
can go on with each evaluation. The peak is at d = exp(alpha / beta - 1). A constant factor in KL (per token instead of
per answer) changes alpha, not the form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, isfinite, log, sqrt

__all__ = ["GoldFit", "GoldLaw"]

LEAST = 6
_SURE = 2.0  # standard errors
_LARGEST = 1e6


@dataclass(frozen=True, slots=True)
class GoldFit:
    """R(d) = start + d (alpha - beta log d), from ``count`` evaluations, the last at distance ``now``.

    ``slope`` is R'(now) = alpha - beta - beta log(now), ``slope_error`` its standard error. ``peak`` is the distance of
    the maximum, ``None`` if the curve has none (beta <= 0).
    """

    start: float
    alpha: float
    beta: float
    residual: float
    count: int
    now: float
    slope: float
    slope_error: float

    @property
    def peak(self) -> float | None:
        """Where the fitted curve is highest."""
        if self.beta <= 0 or not -700 < self.alpha / self.beta - 1 < log(_LARGEST):
            return None
        return exp(self.alpha / self.beta - 1)

    @property
    def passed(self) -> bool:
        """Whether the curve surely falls where the run is now: two standard errors below 0."""
        return self.peak is not None and self.now > self.peak and self.slope + _SURE * self.slope_error < 0

    def at(self, distance: float) -> float:
        """The fitted reward at a distance."""
        return self.start + (distance * (self.alpha - self.beta * log(distance)) if distance > 0 else 0.0)


@dataclass(slots=True)
class GoldLaw:
    """Takes evaluations as they come; keeps sums only. Units: KL in nats."""

    count: int = 0
    now: float = 0.0
    _lowest: float = float("inf")
    _highest: float = 0.0
    _squares: float = 0.0
    _normal: list[list[float]] = field(default_factory=lambda: [[0.0] * 3 for _ in range(3)])
    _right: list[float] = field(default_factory=lambda: [0.0] * 3)

    def add(self, kl: float, reward: float) -> bool:
        """One evaluation at ``kl`` from the reference; whether it could be used (finite, KL above 0)."""
        if not (isfinite(kl) and isfinite(reward) and kl > 0):
            return False
        d = sqrt(kl)
        row = (1.0, d, -d * log(d))
        for i in range(3):
            self._right[i] += row[i] * reward
            for j in range(3):
                self._normal[i][j] += row[i] * row[j]
        self.count += 1
        self.now = d
        self._squares += reward * reward
        self._lowest, self._highest = min(self._lowest, d), max(self._highest, d)
        return True

    def fit(self) -> GoldFit | None:
        """``None`` before six evaluations, or if they are all at much the same distance (within a factor of 1.5)."""
        if self.count < LEAST or self._highest < 1.5 * self._lowest:
            return None
        inverse = _inverse(self._normal)
        if inverse is None:
            return None
        start, alpha, beta = (sum(inverse[i][j] * self._right[j] for j in range(3)) for i in range(3))
        explained = sum(one * other for one, other in zip((start, alpha, beta), self._right, strict=True))
        residual = max(0.0, self._squares - explained) / (self.count - 3)
        direction = (0.0, 1.0, -1 - log(self.now))
        variance = sum(direction[i] * inverse[i][j] * direction[j] for i in range(3) for j in range(3)) * residual
        slope = alpha - beta - beta * log(self.now)
        return GoldFit(start, alpha, beta, sqrt(residual), self.count, self.now, slope, sqrt(max(0.0, variance)))


def _inverse(matrix: Sequence[Sequence[float]]) -> list[list[float]] | None:
    """By Gauss and Jordan with pivots; ``None`` if the matrix is singular to working precision."""
    size = len(matrix)
    work = [[*row, *(1.0 if i == j else 0.0 for j in range(size))] for i, row in enumerate(matrix)]
    scale = max(abs(value) for row in matrix for value in row)
    for i in range(size):
        best = max(range(i, size), key=lambda k: abs(work[k][i]))
        if abs(work[best][i]) <= 1e-13 * scale:
            return None
        work[i], work[best] = work[best], work[i]
        pivot = work[i][i]
        work[i] = [value / pivot for value in work[i]]
        for k in range(size):
            if k != i and work[k][i]:
                factor = work[k][i]
                work[k] = [value - factor * other for value, other in zip(work[k], work[i], strict=True)]
    return [row[size:] for row in work]
