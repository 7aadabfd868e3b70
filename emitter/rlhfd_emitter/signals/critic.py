"""Signals of the critic's training: where its loss is clipped, and how well its values explain the returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhfd_emitter.signals.statistics import Tensor

SAME = 1e-12  # a variance below this share of the mean square is what rounding leaves of equal numbers


class Settings(NamedTuple):
    """What a ``ValueLoss`` is set to."""

    clip: float | None

    @classmethod
    def of(cls, loss: Any) -> Settings:
        return cls(getattr(loss, "clip_eps", None))


class Batch:
    """What ``ValueLoss.forward`` was given, at any number of positions, on any device. Nothing here waits for it.

    ``rows`` are new and old values and returns, float64 with 0 where ``mask`` (bool) is not set.
    """

    def __init__(self, settings: Settings, rows: Tensor, mask: Tensor) -> None:
        self.settings, self.mask = settings, mask
        self.values, self.old, self.returns = rows
        self.left = self.returns - self.values
        self.left_squared = self.left * self.left


def tokens(batch: Batch) -> Mapping[str, Tensor]:
    """How many response tokens there are."""
    return {"tokens": batch.mask.sum()}


def clip(batch: Batch) -> Mapping[str, Tensor]:
    """For which tokens the loss takes the clipped value, since it is the farther from the return."""
    bound = batch.settings.clip
    if bound is None:
        return {}
    moved = batch.values - batch.old
    clipped = batch.old + moved.clamp(-bound, bound) - batch.returns
    active = (moved.abs() > bound) & (clipped * clipped > batch.left_squared)
    return {"rlhfd/critic/value_clipped_ratio": active.sum()}


def fit(batch: Batch) -> Mapping[str, Tensor]:
    """Sums for the variances of the returns and of what the values leave of them."""
    return {
        "returns": batch.returns.sum(),
        "returns_squared": (batch.returns * batch.returns).sum(),
        "left": batch.left.sum(),
        "left_squared": batch.left_squared.sum(),
    }


# In this order, each on its own.
GROUPS = {"critic_tokens": tokens, "critic_clip": clip, "critic_fit": fit}


def summary(totals: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a training call: sums over tokens become means."""
    count = totals.get("tokens", 0.0)
    if not count:
        return {}
    metrics = {name: value / count for name, value in totals.items() if name.startswith("rlhfd/")}
    metrics["rlhfd/critic/tokens"] = count
    if "returns" in totals:
        whole = _variance(totals, "returns", count)
        if whole != 0:
            metrics["rlhfd/critic/explained_variance"] = 1 - _variance(totals, "left", count) / whole
    return metrics


def _variance(totals: Mapping[str, float], name: str, count: float) -> float:
    """The variance of the population, 0 if all are equal."""
    mean, squares = totals[name] / count, totals[f"{name}_squared"] / count
    variance = squares - mean * mean
    return 0.0 if variance <= SAME * squares else variance
