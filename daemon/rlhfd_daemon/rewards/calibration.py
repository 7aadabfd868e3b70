"""Whether a score means what it says, where labels exist: reliability table, ECE, Brier score, area under the curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, sqrt
from statistics import fmean

from rlhfd_daemon.rewards.correlation import ranks

__all__ = ["Bin", "Calibration", "auc", "auc_error", "calibration", "probabilities"]


@dataclass(frozen=True, slots=True)
class Bin:
    """The samples whose predicted probability is from ``low`` to ``high`` (the last bin holds 1 as well)."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """``ece`` is the mean over samples of |predicted - observed| of their bin (Naeini et al. 2015), ``brier`` the mean
    squared error (Brier 1950), ``auc`` the probability that a good answer scores above a bad one, ``None`` if the
    labels are all alike."""

    count: int
    ece: float
    brier: float
    auc: float | None
    bins: tuple[Bin, ...]


def probabilities(scores: Sequence[float]) -> tuple[list[float], str]:
    """Scores as probabilities, and how: as they are if all are from 0 to 1, otherwise by the logistic function (a
    Bradley-Terry reward against an answer of reward 0)."""
    if all(0 <= score <= 1 for score in scores):
        return list(scores), "identity"
    return [1 / (1 + exp(-min(700.0, max(-700.0, score)))) for score in scores], "logistic"


def calibration(predicted: Sequence[float], labels: Sequence[bool], bins: int = 10) -> Calibration | None:
    """``predicted`` from 0 to 1; ``None`` without samples. The bins are of equal width.

    :raises ValueError: a probability is not from 0 to 1.
    """
    if not predicted:
        return None
    if not all(0 <= one <= 1 for one in predicted):
        raise ValueError("a predicted probability must be from 0 to 1")
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for one, label in zip(predicted, labels, strict=True):
        members[min(bins - 1, int(one * bins))].append((one, label))
    table = tuple(
        Bin(at / bins, (at + 1) / bins, len(held), fmean(one for one, _ in held), fmean(label for _, label in held))
        for at, held in enumerate(members)
        if held
    )
    count = len(predicted)
    ece = fsum(one.count * abs(one.predicted - one.observed) for one in table) / count
    brier = fsum((one - label) ** 2 for one, label in zip(predicted, labels, strict=True)) / count
    return Calibration(count, ece, brier, auc(predicted, labels), table)


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """Mann and Whitney's statistic over the number of pairs, ties for half; ``None`` if the labels are all alike."""
    good = sum(labels)
    bad = len(labels) - good
    if not good or not bad:
        return None
    held = fsum(rank for rank, label in zip(ranks(scores), labels, strict=True) if label)
    return (held - good * (good + 1) / 2) / (good * bad)


def auc_error(area: float, good: int, bad: int) -> float:
    """The standard error of :func:`auc` (Hanley and McNeil 1982)."""
    first, second = area / (2 - area), 2 * area * area / (1 + area)
    variance = area * (1 - area) + (good - 1) * (first - area * area) + (bad - 1) * (second - area * area)
    return sqrt(max(0.0, variance) / (good * bad))
