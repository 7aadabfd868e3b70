"""Signals over the response tokens of a batch: advantages, returns, values, KL, mismatch and entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rlhfd_emitter.signals.batch import Batch
from rlhfd_emitter.signals.statistics import average, moments, variance

OUTLIER_SIGMAS = 5.0
MAX_LOG_RATIO = 20.0  # as in verl: exp(2 * 20) is still a number


def advantage(batch: Batch) -> Mapping[str, float]:
    """Advantages before whitening, and as trained on."""
    before, trained = batch.advantages(), batch.row("advantages")
    values: dict[str, float] = {}
    if before is not None and before.numel():
        values.update(moments("rlhfd/advantage", before))
        values["rlhfd/advantage/abs_mean"] = average(before.abs())
    if trained is not None and trained.numel():
        sigma = math.sqrt(variance(trained))
        values["rlhfd/advantage/trained_mean"] = average(trained)
        values["rlhfd/advantage/trained_std"] = sigma
        if sigma != 0:
            far = average((trained.abs() > OUTLIER_SIGMAS * sigma).double())
            values["rlhfd/advantage/outlier_ratio"] = far if math.isfinite(sigma) else math.nan
    return values


def returns(batch: Batch) -> Mapping[str, float]:
    """Returns: the discounted sums to come, at each token."""
    row = batch.row("returns")
    return {} if row is None else moments("rlhfd/return", row)


def value(batch: Batch) -> Mapping[str, float]:
    """The critic's values and how much of the returns' variance they explain."""
    predicted, reached = batch.row("values"), batch.row("returns")
    if predicted is None or not predicted.numel():
        return {}
    values = {"rlhfd/value/mean": average(predicted), "rlhfd/value/std": math.sqrt(variance(predicted))}
    whole = 0.0 if reached is None else variance(reached)
    if whole != 0:
        values["rlhfd/explained_variance"] = 1 - variance(reached - predicted) / whole
    return values


def kl(batch: Batch) -> Mapping[str, float]:
    """The policy against the reference model, by Schulman's estimators, unclamped."""
    ratios = batch.log_ratios()
    if ratios is None or not ratios.numel():
        return {}
    return {
        "rlhfd/kl/k1": average(ratios),
        "rlhfd/kl/k3": average((-ratios).expm1() + ratios),
        "rlhfd/kl/max": float(ratios.max()),
    }


def mismatch(batch: Batch) -> Mapping[str, float]:
    """The same tokens' probabilities by the rollout engine and by the training engine; ρ is training over rollout."""
    rollout, training = batch.row("rollout_log_probs"), batch.row("action_log_probs")
    if rollout is None or training is None or not rollout.numel():
        return {}
    apart = (training.exp() - rollout.exp()).abs()
    log_rho = (training - rollout).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    rho = log_rho.exp()
    total = float(rho.sum())
    return {
        "rlhfd/mismatch/prob_diff_mean": average(apart),
        "rlhfd/mismatch/prob_diff_max": float(apart.max()),
        "rlhfd/mismatch/k1": -average(log_rho),
        "rlhfd/mismatch/k3": average(log_rho.expm1() - log_rho),
        "rlhfd/mismatch/chi2": average((log_rho + log_rho).expm1()),
        "rlhfd/mismatch/ess_ratio": total * total / (rho.numel() * float((rho * rho).sum())),
    }


def entropy(batch: Batch) -> Mapping[str, float]:
    """The policy's entropy as its own samples show it."""
    row = batch.row("action_log_probs")
    return {"rlhfd/entropy/sampled": -average(row)} if row is not None and row.numel() else {}
