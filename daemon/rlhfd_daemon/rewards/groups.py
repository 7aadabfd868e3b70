"""What the samples of one prompt say together: groups that teach nothing, and where the variance of the reward lies."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import fsum
from statistics import fmean
from typing import TypeVar

__all__ = ["Groups", "grouped", "groups_of"]

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Groups:
    """Of the groups with at least two rewards: ``dead`` ones have no variance (their group-relative advantages are all
    0), of which ``dead_best`` have the best reward there is, ``dead_worst`` the worst.

    ``within_variance`` and ``between_variance`` are the mean squares' estimates of the variance inside a prompt and of
    prompts' means (one-way random effects); ``icc`` the share between prompts, ``None`` without any variance.
    """

    count: int
    dead: int
    dead_best: int
    dead_worst: int
    within_variance: float
    between_variance: float

    @property
    def dead_ratio(self) -> float:
        """The share of groups that teach nothing."""
        return self.dead / self.count if self.count else 0.0

    @property
    def icc(self) -> float | None:
        """The intraclass correlation ICC(1): 0, prompts do not differ; 1, the answers to a prompt do not."""
        whole = self.within_variance + self.between_variance
        return self.between_variance / whole if whole > 0 else None


def grouped(keys: Iterable[_K], values: Iterable[_V]) -> dict[_K, list[_V]]:
    """The values of each key."""
    found: dict[_K, list[_V]] = {}
    for key, value in zip(keys, values, strict=True):
        found.setdefault(key, []).append(value)
    return found


def groups_of(rewards: Iterable[Sequence[float]], best: float | None = None, worst: float | None = None) -> Groups:
    """``rewards`` are finite, one sequence for each prompt. ``best`` and ``worst`` are the extremes that the reward can
    have; unknown, those of these rewards are taken (then, with a single value, neither is known)."""
    groups = [one for one in rewards if len(one) >= 2]
    flat = [value for one in groups for value in one]
    if not groups:
        return Groups(0, 0, 0, 0, 0.0, 0.0)
    high = max(flat) if best is None else best
    low = min(flat) if worst is None else worst
    known = high > low
    dead = [one[0] for one in groups if _is_dead(one)]
    within, between = _components(groups, flat)
    return Groups(
        len(groups),
        len(dead),
        sum(1 for value in dead if known and value >= high),
        sum(1 for value in dead if known and value <= low),
        within,
        between,
    )


def _is_dead(group: Sequence[float]) -> bool:
    return max(group) - min(group) <= _ROUNDING * max(1.0, abs(group[0]))


def _components(groups: Sequence[Sequence[float]], flat: Sequence[float]) -> tuple[float, float]:
    """Variance components of the one-way layout with unequal groups (Searle et al. 1992, section 3.6)."""
    count, whole = len(groups), len(flat)
    mean = fmean(flat)
    means = [fmean(one) for one in groups]
    inside = fsum((value - middle) ** 2 for one, middle in zip(groups, means, strict=True) for value in one)
    mean_square = inside / (whole - count)
    if count < 2:
        return mean_square, 0.0
    size = (whole - fsum(len(one) ** 2 for one in groups) / whole) / (count - 1)
    between = fsum(len(one) * (middle - mean) ** 2 for one, middle in zip(groups, means, strict=True)) / (count - 1)
    return mean_square, max(0.0, (between - mean_square) / size)
