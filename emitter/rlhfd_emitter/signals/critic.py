"""Signals of the critic's training: where its loss is clipped, and how well its values explain the returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhfd_emitter.signals.statistics import Tensor
from rlhfd_emitter.signals.totals import masked

SAME = 1e-12  # a variance below this share of the mean square is what rounding leaves of equal numbers


class CriticBatch:
    """What one call of ``ValueLoss.forward`` was given, as float64 with 0 where the mask is not set.

    ``loss`` is the ``ValueLoss``, the tensors are (B, A) on any device. Nothing here waits for it.

    :raises ValueError: the tensors have different shapes.
    """

    def __init__(self, loss: Any, values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor) -> None:
        self.mask = mask.detach().bool()
        self.values, self.old = masked(values, self.mask), masked(old_values, self.mask)
        self.returns = masked(returns, self.mask)
        self.clip = getattr(loss, "clip_eps", None)


def tokens(batch: CriticBatch) -> Mapping[str, Tensor]:
    """How many response tokens there are."""
    return {"tokens": batch.mask.sum().double()}


def clip(batch: CriticBatch) -> Mapping[str, Tensor]:
    """For which tokens the loss takes the clipped value, since it is the farther from the return."""
    if batch.clip is None:
        return {}
    moved = batch.values - batch.old
    clipped = batch.old + moved.clamp(-batch.clip, batch.clip) - batch.returns
    free = batch.values - batch.returns
    active = (moved.abs() > batch.clip) & (clipped * clipped > free * free)
    return {"rlhfd/critic/value_clipped_ratio": active.sum().double()}


def fit(batch: CriticBatch) -> Mapping[str, Tensor]:
    """Sums for the variances of the returns and of what the values leave of them."""
    left = batch.returns - batch.values
    return {
        "returns": batch.returns.sum(),
        "returns_squared": (batch.returns * batch.returns).sum(),
        "left": left.sum(),
        "left_squared": (left * left).sum(),
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
