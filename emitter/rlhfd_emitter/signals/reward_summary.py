"""One step's rewards in about a hundred numbers: their distribution, what they go with, what groups and copies say.

The daemon joins those of several steps (``rlhfd_daemon.rewards.summary``). ``columns`` is for whoever wants the numbers
of single answers; texts never leave the process.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations_with_replacement, compress, pairwise
from operator import mul
from typing import Any, TypeVar

from rlhfd_emitter.signals.batch import Batch, setting
from rlhfd_emitter.signals.repetition import digests, repeated_shares
from rlhfd_emitter.signals.samples import lengths_of
from rlhfd_emitter.signals.statistics import deviation, mean, quantile

__all__ = ["LEVELS", "MAX_COLUMN", "columns", "summary", "summed"]

LEVELS = 64
"""So many different rewards are told exactly; of more, quantiles: a rank is off by at most a 128th of the samples."""
MAX_COLUMN = 1024
SAME = 1e-6
_Column = Sequence["float | None"]
_T = TypeVar("_T")


def summary(batch: Batch) -> Mapping[str, object]:
    """Fields of the event ``reward_summary`` (docs/wire.md); nothing without rewards."""
    rewards = batch.samples("rewards", "reward")
    if not rewards:
        return {}
    found: dict[str, object] = {"samples": len(rewards), "missing": sum(not math.isfinite(each) for each in rewards)}
    if bounds := setting(batch.args, "reward.clip_range", "reward_clip_range"):
        found["clip"] = [float(each) for each in bounds]
    places = [place for place, index in enumerate(batch.used) if math.isfinite(rewards[index])]
    if places:
        table = {name: [column[place] for place in places] for name, column in _table(batch, rewards).items()}
        with_kl = bool(batch.kl_coefficient) and not setting(batch.args, "algo.kl.use_loss", "use_kl_loss")
        found.update(summed(table, batch.estimator if isinstance(batch.estimator, str) else None, with_kl))
    return found


def summed(table: Mapping[str, Sequence[Any]], estimator: str | None, kl_in_reward: bool) -> dict[str, object]:
    """The same of samples by column, see :func:`columns`; all have a finite reward."""
    rewards, prompts = table["reward"], table.get("prompt_id")
    values, counts = distribution(rewards)
    found: dict[str, object] = {"values": values, "counts": counts, "step_mean": step_mean(rewards, prompts)}
    for name in ("length", "repetition", "kl"):
        if name in table:
            pair = (rewards, table[name])
            found[name] = [sums(pair), sums(pair, prompts)] if prompts else [sums(pair)]
    if estimator is not None and "advantage" in table:
        found.update(_advantages(table, estimator, kl_in_reward))
    if prompts and "response_id" in table:
        found["copies"] = copies(rewards, list(zip(prompts, table["response_id"], strict=True)))
    return found


def columns(batch: Batch) -> Mapping[str, object]:
    """Fields of the event ``reward_samples``: at most :data:`MAX_COLUMN` samples, a list for each column of
    ``rlhfd reward``."""
    rewards = batch.samples("rewards", "reward")
    return {name: column[:MAX_COLUMN] for name, column in _table(batch, rewards).items()} if rewards else {}


def _table(batch: Batch, rewards: Sequence[float]) -> dict[str, list[float | None]]:
    """What is known of each used sample, by column: length in tokens, share of repeated 4-grams, KL to the reference
    and advantage before whitening (means over tokens), which prompt, which of its answers."""
    lengths, prompts = lengths_of(batch), batch.prompts()
    found: dict[str, Sequence[float | None]] = {
        "reward": [rewards[index] for index in batch.used],
        "length": [lengths[index] for index in batch.used],
        "repetition": repeated_shares(batch),
        "prompt_id": [] if prompts is None else [prompts[index] for index in batch.used],
        "response_id": digests(batch),
        **batch.beside_rewards(),
    }
    return {name: list(column) for name, column in found.items() if column}


def distribution(values: Iterable[float | None]) -> tuple[list[float], list[int]]:
    """At most :data:`LEVELS` values, ascending, and how many of ``values`` (finite) each stands for."""
    ranked = sorted(value for value in values if value is not None)
    counts: dict[float, int] = {}
    for each in ranked:
        counts[each] = counts.get(each, 0) + 1
    if len(counts) <= LEVELS:
        return list(counts), list(counts.values())
    cuts = [len(ranked) * cut // LEVELS for cut in range(LEVELS + 1)]
    middles = [ranked[(low + high) // 2] for low, high in pairwise(cuts)]
    middles[0], middles[-1] = ranked[0], ranked[-1]
    return middles, [high - low for low, high in pairwise(cuts)]


def sums(columns: Sequence[_Column], strata: Sequence[Hashable] | None = None) -> list[float]:
    """``[samples, strata]`` and the sums of products of deviations from each stratum's means, of column 0 with 0, with
    1, ..., of 1 with 1, ...; of the strata in which column 0 varies (``None``: all are one). Samples that lack a finite
    number in some column are left out."""
    found = [0.0] * (2 + len(columns) * (len(columns) + 1) // 2)
    rows = list(zip(*columns, strict=True))
    known = [all(each is not None and math.isfinite(each) for each in row) for row in rows]
    kept = list(compress(rows, known))
    for group in _grouped(kept, None if strata is None else compress(strata, known)).values():
        first, *others = zip(*group, strict=True) if group else ((),)
        if len(set(first)) < 2:
            continue
        centred = [_centred(side) for side in (first, *others)]
        found[0] += len(group)
        found[1] += 1
        for place, (one, other) in enumerate(combinations_with_replacement(centred, 2)):
            found[2 + place] += sum(map(mul, one, other))
    return found


def step_mean(rewards: _Column, prompts: Sequence[Hashable] | None) -> list[float]:
    """The mean over prompts' groups (over samples without groups), its variance by chance, its degrees of freedom;
    nothing of fewer than two."""
    units = [mean(each) for each in _grouped(rewards, prompts or range(len(rewards))).values()]
    if len(units) < 2:
        return []
    return [mean(units), deviation(units) ** 2 / (len(units) - 1), len(units) - 1]


def copies(rewards: _Column, answers: Sequence[Hashable]) -> list[float]:
    """Answers that came more than once, those of them with different rewards, the largest difference, then sum of
    squares and degrees of freedom of the rewards of one answer."""
    known = [each for each in _grouped(rewards, answers).values() if len(each) > 1]
    ranges = [max(each) - min(each) for each in known]
    differing = sum(reach > SAME * max(1.0, abs(each[0])) for reach, each in zip(ranges, known, strict=True))
    freedom = sum(len(each) - 1 for each in known)
    return [len(known), differing, max(ranges, default=0.0), sum(map(_squares, known)), freedom]


def _advantages(table: Mapping[str, Sequence[Any]], estimator: str, kl_in_reward: bool) -> dict[str, object]:
    """How the advantages go with the rewards inside the estimator's strata, and with the answers' KL where that is in
    the reward. ``group_norm`` divides by each group's spread."""
    rewards, prompts = table["reward"], table.get("prompt_id")
    if estimator == "group_norm" and prompts:
        spread = {key: _deviation(each) or 1.0 for key, each in _grouped(rewards, prompts).items()}
        rewards = [each / spread[key] for each, key in zip(rewards, prompts, strict=True)]
    found = [rewards, table["advantage"]]
    if kl_in_reward and "kl" in table:
        pairs = zip(table["kl"], table["length"], strict=True)
        found.append([None if kl is None or length is None else kl * length for kl, length in pairs])
    by_group = prompts if estimator not in ("gae", "reinforce") else None
    fields: dict[str, object] = {"estimator": estimator, "advantage": sums(found, by_group)}
    if prompts:
        fields["off_centre"] = _off_centre(table["advantage"], prompts)
    return fields


def _off_centre(advantages: _Column, prompts: Sequence[Hashable]) -> float | None:
    """The median over groups of the size of their mean advantage, in spreads of all."""
    known = [each for each in advantages if each is not None and math.isfinite(each)]
    spread = _deviation(known)
    if not spread or len(known) < len(advantages):
        return None
    return quantile([abs(mean(each)) for each in _grouped(advantages, prompts).values()], 0.5) / spread


def _grouped(values: Iterable[_T | None], keys: Iterable[Hashable] | None) -> dict[Hashable, list[_T]]:
    """``values`` by key; without keys all of them are one group."""
    if keys is None:
        return {None: list(values)}  # type: ignore[arg-type]
    found: dict[Hashable, list[_T]] = {}
    for key, value in zip(keys, values, strict=True):
        found.setdefault(key, []).append(value)  # type: ignore[arg-type]
    return found


def _centred(values: Sequence[float]) -> list[float]:
    """Deviations from the mean; exactly 0 where all are equal, which rounding would not give."""
    middle = values[0] if min(values) == max(values) else mean(values)
    return [each - middle for each in values]


def _squares(values: Sequence[float]) -> float:
    """The sum of squares of the deviations from the mean."""
    return sum(each * each for each in _centred(values))


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation with n - 1; 0 of fewer than two values."""
    return math.sqrt(_squares(values) / (len(values) - 1)) if len(values) > 1 else 0.0
