"""Signals of the policy's training: new against old probabilities of the tokens, and where the loss is clipped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rlhfd_emitter.signals.statistics import Tensor
from rlhfd_emitter.signals.tokens import MAX_LOG_RATIO
from rlhfd_emitter.signals.totals import masked

GREATEST = ("greatest", "negative_least")


class PolicyBatch:
    """What one call of ``PolicyLoss.forward`` was given, as float64 with 0 where the mask is not set.

    ``loss`` is the ``PolicyLoss``, the tensors are (B, A) on any device. Nothing here waits for it.

    :raises ValueError: the tensors have different shapes.
    """

    def __init__(self, loss: Any, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> None:
        self.mask = mask.detach().bool()
        self.log_ratios = masked(log_probs, self.mask) - masked(old_log_probs, self.mask)
        self.advantages = masked(advantages, self.mask)
        self.clamped = self.log_ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        # GSPO weighs whole sequences: then no token has a ratio of its own.
        self.by_token = getattr(loss, "policy_loss_type", "ppo") == "ppo"
        self.low = getattr(loss, "clip_eps_low", getattr(loss, "clip_eps", None))  # one bound for both to 0.8.2
        self.high = getattr(loss, "clip_eps_high", getattr(loss, "clip_eps", None))
        self.dual = getattr(loss, "dual_clip", None)


def tokens(batch: PolicyBatch) -> Mapping[str, Tensor]:
    """How many response tokens there are, and how many of them have no usable probability."""
    return {"tokens": batch.mask.sum().double(), "nonfinite": (~batch.log_ratios.isfinite()).sum().double()}


def kl(batch: PolicyBatch) -> Mapping[str, Tensor]:
    """The old policy against the new one, by Schulman's estimators."""
    return {
        "rlhfd/policy_kl/k1": -batch.log_ratios.sum(),
        "rlhfd/policy_kl/k3": (batch.clamped.expm1() - batch.clamped).sum(),
    }


def ratio(batch: PolicyBatch) -> Mapping[str, Tensor]:
    """The importance ratios, new over old."""
    if not batch.by_token:
        return {}
    ratios, elsewhere = batch.clamped.exp(), ~batch.mask
    weights = ratios.masked_fill(elsewhere, 0.0)
    return {
        "rlhfd/ratio/mean": weights.sum(),
        "squares": (weights * weights).sum(),
        "greatest": ratios.masked_fill(elsewhere, -math.inf).max(),
        "negative_least": (-ratios).masked_fill(elsewhere, -math.inf).max(),
    }


def clip(batch: PolicyBatch) -> Mapping[str, Tensor]:
    """Which ratios are outside the clip range, and for which of them the loss takes the clipped one."""
    if not batch.by_token or batch.low is None or batch.high is None:
        return {}
    ratios = batch.clamped.exp()
    below, above = (ratios < 1 - batch.low) & batch.mask, (ratios > 1 + batch.high) & batch.mask
    negative, positive = batch.advantages < 0, batch.advantages > 0
    found = {
        "rlhfd/ratio/below_ratio": below,
        "rlhfd/ratio/above_ratio": above,
        "rlhfd/ratio/clipped_low_ratio": below & negative,
        "rlhfd/ratio/clipped_high_ratio": above & positive,
    }
    if batch.dual is not None:
        found["rlhfd/ratio/dual_clipped_ratio"] = (ratios > batch.dual) & negative
    return {name: chosen.sum().double() for name, chosen in found.items()}


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
