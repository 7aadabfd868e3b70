"""Signals over the samples of a batch: rewards, prompt groups, lengths, correlations, the batch's size and padding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rlhfd_emitter.signals.batch import Batch, setting
from rlhfd_emitter.signals.micro_batches import Layout, Masks, summary
from rlhfd_emitter.signals.repetition import digests
from rlhfd_emitter.signals.statistics import average, deviation, greatest, least, mean, pearson, quantile


def size(batch: Batch) -> Mapping[str, float]:
    """How much there is, and the coefficient of the KL penalty."""
    values = {"rlhfd/tokens": float(sum(batch.counts)), "rlhfd/samples": float(len(batch.counts))}
    if batch.kl_coefficient is not None:
        values["rlhfd/kl_coefficient"] = float(batch.kl_coefficient)
    if len(batch.used) < len(batch.counts):
        values["rlhfd/sampled_ratio"] = len(batch.used) / len(batch.counts)
    return values


def filling(batch: Batch) -> Mapping[str, float]:
    """The micro-batches in which the models saw the samples to make experiences of them."""
    masks = [getattr(experience, "attention_mask", None) for experience in batch.experiences]
    if any(mask is None for mask in masks):
        return {}
    held = Masks()
    for mask in masks:
        held.put(mask)
    return summary("rlhfd/experience", held.take(), Layout.of(batch.args, "rollout"))


def reward(batch: Batch) -> Mapping[str, float]:
    """Rewards with length penalties, before baseline, clipping and KL."""
    rewards = batch.samples("rewards", "reward")
    if not rewards:
        return {}
    values = {
        "rlhfd/reward/mean": mean(rewards),
        "rlhfd/reward/std": deviation(rewards),
        "rlhfd/reward/min": least(rewards),
        "rlhfd/reward/max": greatest(rewards),
        **{f"rlhfd/reward/p{percent}": quantile(rewards, percent / 100) for percent in (10, 50, 90)},
    }
    if bounds := setting(batch.args, "reward.clip_range", "reward_clip_range"):
        low, high = bounds
        values["rlhfd/reward/clipped_ratio"] = mean([float(each <= low or each >= high) for each in rewards])
    if missing := sum(map(math.isnan, rewards)):
        values["rlhfd/reward/missing_ratio"] = missing / len(rewards)
    return values


def group(batch: Batch) -> Mapping[str, float]:
    """Prompts whose samples were all rewarded alike, from which group estimators learn nothing, and answers that repeat
    another one to their prompt."""
    prompts = batch.prompts()
    if prompts is None:
        return {}
    values = {}
    if rewards := batch.samples("rewards", "reward"):
        groups: dict[int, list[float]] = {}
        for prompt, each in zip(prompts, rewards, strict=True):
            groups.setdefault(prompt, []).append(each)
        values["rlhfd/group/zero_std_ratio"] = mean([float(_alike(each)) for each in groups.values()])
    if answers := digests(batch):
        different = len({(prompts[index], answer) for index, answer in zip(batch.used, answers, strict=True)})
        values["rlhfd/group/duplicate_ratio"] = 1 - different / len(answers)
    return values


def _alike(rewards: Sequence[float]) -> bool:
    """Whether all are equal; NaN equals nothing."""
    return all(each == rewards[0] for each in rewards)


def length(batch: Batch) -> Mapping[str, float]:
    """Lengths as OpenRLHF counts them, from the first to the last response token."""
    lengths = lengths_of(batch)
    if not lengths:
        return {}
    values = {
        "rlhfd/response_length/mean": mean(lengths),
        "rlhfd/response_length/min": least(lengths),
        "rlhfd/response_length/max": greatest(lengths),
        **{f"rlhfd/response_length/p{percent}": quantile(lengths, percent / 100) for percent in (50, 90, 99)},
        "rlhfd/response_length/zero_ratio": mean([float(count == 0) for count in batch.counts]),
    }
    if truncated := batch.samples("truncated"):
        values["rlhfd/response_length/truncated_ratio"] = mean(truncated)
    return values


def lengths_of(batch: Batch) -> Sequence[float]:
    """Of each sample, in tokens."""
    return batch.samples("response_length") or [float(count) for count in batch.counts]


def correlation(batch: Batch) -> Mapping[str, float]:
    """Pearson's correlations over the batch's samples, of their means over tokens."""
    rewards = batch.samples("rewards", "reward")
    if not rewards:
        return {}
    found = {"reward_length": pearson(rewards, lengths_of(batch))}
    used = [rewards[index] for index in batch.used]
    for name, means in batch.beside_rewards().items():
        pairs = [(each, other) for each, other in zip(means, used, strict=True) if each is not None]
        found[f"{name}_reward"] = pearson([each for each, _ in pairs], [other for _, other in pairs])
    return {f"rlhfd/correlation/{name}": value for name, value in found.items() if value is not None}


def ratio(batch: Batch) -> Mapping[str, float]:
    """Sizes of one signal beside another's."""
    rewards, advantages = batch.samples("rewards", "reward"), batch.advantages()
    if not rewards or advantages is None or not advantages.numel():
        return {}
    size = mean([abs(each) for each in rewards])
    return {} if size == 0 else {"rlhfd/ratio_of/advantage_reward": average(advantages.abs()) / size}
