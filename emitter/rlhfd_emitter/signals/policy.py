"""Signals of the policy's training: new against old probabilities of the tokens, and where the loss is clipped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhfd_emitter.signals.statistics import Tensor
from rlhfd_emitter.signals.tokens import MAX_LOG_RATIO

GREATEST = ("greatest", "negative_least")


class Settings(NamedTuple):
    """What a ``PolicyLoss`` is set to."""

    by_token: bool  # GSPO weighs whole sequences: then no token has a ratio of its own
    low: float | None
    high: float | None
    dual: float | None

    @classmethod
    def of(cls, loss: Any) -> Settings:
        """Of one bound for both to 0.8.2, too."""
        both = getattr(loss, "clip_eps", None)
        low, high = getattr(loss, "clip_eps_low", both), getattr(loss, "clip_eps_high", both)
        by_token = getattr(loss, "policy_loss_type", "ppo") == "ppo"
        return cls(by_token, low, high, getattr(loss, "dual_clip", None))


class Batch:
    """What ``PolicyLoss.forward`` was given, at any number of positions, on any device. Nothing here waits for it.

    ``rows`` are new and old log-probabilities and advantages, float64 with 0 where ``mask`` (bool) is not set.
    """

    def __init__(self, settings: Settings, rows: Tensor, mask: Tensor) -> None:
        self.settings, self.mask = settings, mask
        new, old, self.advantages = rows
        self.log_ratios = new - old
        self.clamped = self.log_ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        self.ratios = self.clamped.exp()


def tokens(batch: Batch) -> Mapping[str, Tensor]:
    """How many response tokens there are, and how many of them have no usable probability."""
    return {"tokens": batch.mask.sum(), "nonfinite": (~batch.log_ratios.isfinite()).sum()}


def kl(batch: Batch) -> Mapping[str, Tensor]:
    """The old policy against the new one, by Schulman's estimators."""
    return {
        "rlhfd/policy_kl/k1": -batch.log_ratios.sum(),
        "rlhfd/policy_kl/k3": (batch.clamped.expm1() - batch.clamped).sum(),
    }


def ratio(batch: Batch) -> Mapping[str, Tensor]:
    """The importance ratios, new over old."""
    if not batch.settings.by_token:
        return {}
    elsewhere = ~batch.mask
    weights = batch.ratios.masked_fill(elsewhere, 0.0)
    return {
        "rlhfd/ratio/mean": weights.sum(),
        "squares": (weights * weights).sum(),
        "greatest": batch.ratios.masked_fill(elsewhere, -math.inf).max(),
        "negative_least": -batch.ratios.masked_fill(elsewhere, math.inf).min(),
    }


def clip(batch: Batch) -> Mapping[str, Tensor]:
    """Which ratios are outside the clip range, and for which of them the loss takes the clipped one."""
    by_token, low, high, dual = batch.settings
    if not by_token or low is None or high is None:
        return {}
    below, above = (batch.ratios < 1 - low) & batch.mask, (batch.ratios > 1 + high) & batch.mask
    negative, positive = batch.advantages < 0, batch.advantages > 0
    found = {
        "rlhfd/ratio/below_ratio": below.sum(),
        "rlhfd/ratio/above_ratio": above.sum(),
        "rlhfd/ratio/clipped_low_ratio": (below & negative).sum(),
        "rlhfd/ratio/clipped_high_ratio": (above & positive).sum(),
    }
    if dual is not None:
        found["rlhfd/ratio/dual_clipped_ratio"] = ((batch.ratios > dual) & negative).sum()
    return found


# In this order, each on its own.
GROUPS = {"policy_tokens": tokens, "policy_kl": kl, "policy_ratio": ratio, "policy_clip": clip}


def summary(totals: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a training call: sums over tokens become means."""
    count = totals.get("tokens", 0.0)
    if not count:
        return {}
    metrics = {name: value / count for name, value in totals.items() if name.startswith("rlhfd/")}
    metrics["rlhfd/policy/tokens"] = count
    if totals.get("nonfinite"):
        metrics["rlhfd/ratio/nonfinite_ratio"] = totals["nonfinite"] / count
    if "squares" in totals:
        weights = totals["rlhfd/ratio/mean"]
        metrics["rlhfd/ratio/ess_ratio"] = weights * weights / (count * totals["squares"])
        metrics["rlhfd/ratio/max"] = totals["greatest"]
        metrics["rlhfd/ratio/min"] = -totals["negative_least"]
    if "rlhfd/ratio/below_ratio" in metrics:
        outside = metrics["rlhfd/ratio/below_ratio"] + metrics["rlhfd/ratio/above_ratio"]
        metrics["rlhfd/ratio/outside_ratio"] = outside
    return metrics
