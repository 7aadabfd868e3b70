"""The scorer as an instrument: stable from step to step, consistent on the same answer, and normalised as it should.

Each definition compares with what chance gives, so that it can tell good from bad whatever the distribution is:

- **stability** is 1 if the means of neighbouring steps differ just as much as the spread inside the steps explains, and
  falls towards 0 the more they jump: expected over observed variance of the changes, at most 1.
- **consistency** is the share of the reward's variance that is not noise of scoring the same answer twice: 1 for a
  deterministic scorer, 0 for one whose second opinion has nothing to do with the first (ICC of repeated scores).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import fsum
from statistics import fmean

from rlhfd_daemon.rewards.correlation import pearson, spearman
from rlhfd_daemon.rewards.groups import grouped
from rlhfd_daemon.rewards.special import f_sf

__all__ = [
    "Consistency",
    "Normalisation",
    "Stability",
    "StepMean",
    "consistency",
    "normalisation",
    "stability",
    "step_mean",
]

_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class StepMean:
    """The mean reward of a step, the variance that this mean has by chance, and the degrees of freedom of that."""

    mean: float
    variance: float
    degrees: int


@dataclass(frozen=True, slots=True)
class Stability:
    """``excess``: variance of the changes between neighbouring steps over what their samples explain; 1 is chance."""

    excess: float
    steps: int
    p_value: float

    @property
    def stability(self) -> float:
        """1 stable, towards 0 the more the reward jumps."""
        return min(1.0, 1 / self.excess) if self.excess > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Consistency:
    """Of ``repeated`` answers that were scored more than once: how many got different scores, the largest difference,
    and the ``consistency`` (``None`` if the rewards have no variance at all)."""

    repeated: int
    differing: int
    largest: float
    consistency: float | None


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What normalisation did: reward = ``slope`` * raw + intercept, up to ``residual_ratio`` of the variance.
    ``order`` is the rank correlation: below 1, normalisation (or clipping) has reordered or tied rewards."""

    slope: float
    residual_ratio: float
    order: float
    slope_low: float
    slope_high: float


def step_mean(groups: Iterable[Sequence[float]]) -> StepMean | None:
    """Of a step's prompts' groups of finite rewards (a single sample is a group of one). Means of groups are the units,
    since the answers to one prompt are alike. ``None`` with fewer than two groups."""
    units = [fmean(one) for one in groups if one]
    if len(units) < 2:
        return None
    mean = fmean(units)
    squares = fsum((unit - mean) ** 2 for unit in units)
    return StepMean(mean, squares / (len(units) - 1) / len(units), len(units) - 1)


def stability(steps: Iterable[StepMean]) -> Stability | None:
    """``steps`` in order; ``None`` with fewer than 8. A trend of the run hardly counts: only changes from one step to
    the next do (von Neumann 1941)."""
    known = list(steps)
    if len(known) < 8:
        return None
    pairs = list(pairwise(known))
    observed = fmean((after.mean - before.mean) ** 2 for before, after in pairs)
    expected = fmean(before.variance + after.variance for before, after in pairs)
    if expected == 0:
        return Stability(1.0 if observed == 0 else float("inf"), len(known), 1.0 if observed == 0 else 0.0)
    # Successive changes share a mean: two thirds of their number are the degrees of freedom of their variance.
    chance = f_sf(observed / expected, len(pairs) * 2 / 3, sum(one.degrees for one in known))
    return Stability(observed / expected, len(known), chance)


def consistency(answers: Iterable[Hashable], rewards: Iterable[float]) -> Consistency | None:
    """``answers`` name what was scored (prompt and response); ``None`` if none was scored twice."""
    by_answer = grouped(answers, rewards)
    repeated = [one for one in by_answer.values() if len(one) > 1]
    if not repeated:
        return None
    firsts = [one[0] for one in by_answer.values()]
    mean = fmean(firsts)
    whole = fsum((value - mean) ** 2 for value in firsts) / max(1, len(firsts) - 1)
    inside = fsum((value - fmean(one)) ** 2 for one in repeated for value in one)
    noise = inside / sum(len(one) - 1 for one in repeated)
    ranges = [max(one) - min(one) for one in repeated]
    same = _SAME * max(1.0, max(abs(value) for value in firsts))
    total = max(whole, noise)
    return Consistency(
        len(repeated),
        sum(1 for one in ranges if one > same),
        max(ranges),
        max(0.0, 1 - noise / total) if total > 0 else None,
    )


def normalisation(raw: Sequence[float], rewards: Sequence[float], steps: Sequence[Hashable]) -> Normalisation | None:
    """Compare rewards before and after normalisation; ``slope_low`` and ``slope_high`` are the extremes over steps: a
    normalisation by running statistics changes what a reward is worth. ``None`` where the raw ones do not vary."""
    whole, order = pearson(raw, rewards), spearman(raw, rewards)
    if whole is None or order is None:
        return None
    by_step = grouped(steps, zip(raw, rewards, strict=True))
    slopes = []
    for pairs in by_step.values():
        one = pearson([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        if one is not None:
            slopes.append(one.slope)
    low, high = (min(slopes), max(slopes)) if slopes else (whole.slope, whole.slope)
    return Normalisation(whole.slope, 1 - whole.r * whole.r, order.r, low, high)
