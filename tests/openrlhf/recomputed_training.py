"""The signals of a model actor's training a second time, from ``shim/lab_dump_training.py``, in plain loops."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openrlhf.recomputed_filling import filling

Arrays = Mapping[str, Any]


def calls(dump: Path, kind: str, rank: int = 0) -> list[dict[str, Any]]:
    """The arrays of every dumped ``ppo_train`` of ``policy`` or ``critic``, in order."""
    found: list[dict[str, Any]] = []
    for path in sorted(dump.glob(f"{kind}-{rank}-[0-9]*.npz")):
        with np.load(path) as arrays:
            found.append(dict(arrays))
    return found


def _tokens(arrays: Arrays, names: Sequence[str]) -> list[tuple[float, ...]]:
    """The values of the named tensors at every response token of every micro-batch."""
    found = []
    for i in range(_batches(arrays)):
        mask = arrays[f"{i}/action_mask"]
        tensors = [arrays[f"{i}/{name}"] for name in names]
        for row, column in zip(*np.nonzero(mask), strict=True):
            found.append(tuple(float(tensor[row][column]) for tensor in tensors))
    return found


def policy(arrays: Arrays) -> dict[str, float]:
    """Every signal that there should be of one call of the policy, by name."""
    tokens = _tokens(arrays, ("log_probs", "old_log_probs", "advantages"))
    if not tokens:
        return {**_gradients(arrays, "policy"), **_filling(arrays, "policy")}
    logs = [new - old for new, old, _ in tokens]
    clamped = [min(20.0, max(-20.0, each)) for each in logs]
    ratios = [math.exp(each) for each in clamped]
    count = len(tokens)
    values = {
        "rlhfd/policy/tokens": float(count),
        "rlhfd/policy_kl/k1": sum(-each for each in logs) / count,
        "rlhfd/policy_kl/k3": sum(w - 1 - each for w, each in zip(ratios, clamped, strict=True)) / count,
        "rlhfd/ratio/mean": sum(ratios) / count,
        "rlhfd/ratio/max": max(ratios),
        "rlhfd/ratio/min": min(ratios),
        "rlhfd/ratio/ess_ratio": sum(ratios) ** 2 / (count * sum(w**2 for w in ratios)),
        **_gradients(arrays, "policy"),
        **_filling(arrays, "policy"),
    }
    low, high = 1 - float(arrays["low"]), 1 + float(arrays["high"])
    pairs = [(w, advantage) for w, (_, _, advantage) in zip(ratios, tokens, strict=True)]
    # By the losses themselves, not by their signs.
    taken = [(w, min(max(w, low), high) * a < w * a) for w, a in pairs]
    shares = {
        "below": sum(w < low for w in ratios),
        "above": sum(w > high for w in ratios),
        "outside": sum(not low <= w <= high for w in ratios),
        "clipped_low": sum(clipped and w < 1 for w, clipped in taken),
        "clipped_high": sum(clipped and w > 1 for w, clipped in taken),
    }
    if "dual" in arrays:
        dual = float(arrays["dual"])
        shares["dual_clipped"] = sum(a < 0 and min(w * a, min(max(w, low), high) * a) < dual * a for w, a in pairs)
    values.update({f"rlhfd/ratio/{name}_ratio": number / count for name, number in shares.items()})
    return values


def critic(arrays: Arrays) -> dict[str, float]:
    """Every signal that there should be of one call of the critic, by name."""
    tokens = _tokens(arrays, ("values", "old_values", "returns"))
    whole = {**_gradients(arrays, "critic"), **_filling(arrays, "critic")}
    if not tokens:
        return whole
    values = {"rlhfd/critic/tokens": float(len(tokens)), **whole}
    if "clip" in arrays:
        bound = float(arrays["clip"])
        limited = [(value, min(max(value, old - bound), old + bound), goal) for value, old, goal in tokens]
        active = sum(abs(clipped - goal) > abs(value - goal) + 1e-12 for value, clipped, goal in limited)
        values["rlhfd/critic/value_clipped_ratio"] = active / len(tokens)
    returns = [goal for _, _, goal in tokens]
    if len(set(returns)) > 1:
        left = [goal - value for value, _, goal in tokens]
        values["rlhfd/critic/explained_variance"] = 1 - float(np.var(left) / np.var(returns))
    return values


def _filling(arrays: Arrays, kind: str) -> dict[str, float]:
    masks = [arrays[f"{i}/attention_mask"] for i in range(_batches(arrays)) if f"{i}/attention_mask" in arrays]
    return filling(kind, masks, json.loads(str(arrays.get("args", "{}"))), "train")


def _batches(arrays: Arrays) -> int:
    return len({name.partition("/")[0] for name in arrays if "/" in name})


def _gradients(arrays: Arrays, kind: str) -> dict[str, float]:
    """Of the calls in which the engine made a step."""
    made = [float(norm) for norm, steps in zip(arrays["norms"], arrays["steps"], strict=True) if steps]
    values = {f"rlhfd/{kind}/optimizer_steps": float(len(made)), f"rlhfd/{kind}/skipped_steps": 0.0}
    if made and not any(map(math.isnan, made)):
        values[f"rlhfd/{kind}/gradient_norm_mean"] = sum(made) / len(made)
        values[f"rlhfd/{kind}/gradient_norm_max"] = max(made)
        values[f"rlhfd/{kind}/gradient_norm_last"] = made[-1]
    return values
