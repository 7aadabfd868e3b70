"""A step's rewards as the emitter sums them up (event ``reward_summary``, docs/wire.md), read and joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import fsum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from rlhfd_daemon.rewards.advantages import ESTIMATORS, AdvantageFit
from rlhfd_daemon.rewards.correlation import Comoments, Correlation, partial
from rlhfd_daemon.rewards.sample import Sample
from rlhfd_daemon.rewards.special import NORMAL_95

__all__ = ["EVENT", "MAX_EXPANDED", "RELATED", "StepSummary", "advantage_fit", "expanded", "read", "related"]

EVENT = "reward_summary"
RELATED = ("length", "repetition", "kl")
MAX_EXPANDED = 512
"""Samples that stand for one step; of a larger one every value's count is lessened in proportion."""
_Count = Annotated[int, Meta(ge=0, le=1 << 40)]
_Sums = Annotated[list[float], Meta(min_length=5, max_length=8)]
_LEAST_DEGREES = 50
_LARGEST = 1e15


class StepSummary(Struct, frozen=True, kw_only=True):
    """``values`` are ascending and finite, ``counts`` how many samples have each. ``sums`` are ``[samples, strata]``
    and the products of deviations of reward and other (see ``rlhfd_emitter.signals.reward_summary``), of the step as
    one stratum and, behind it, of its prompts' groups. Unknown is empty or ``None``."""

    samples: _Count
    missing: _Count = 0
    clip: tuple[float, float] | None = None
    values: Annotated[list[float], Meta(max_length=1024)] = []
    counts: Annotated[list[_Count], Meta(max_length=1024)] = []
    length: Annotated[list[_Sums], Meta(max_length=2)] = []
    repetition: Annotated[list[_Sums], Meta(max_length=2)] = []
    kl: Annotated[list[_Sums], Meta(max_length=2)] = []
    estimator: str | None = None
    advantage: Annotated[list[float], Meta(max_length=8)] = []
    off_centre: float | None = None
    step_mean: Annotated[list[float], Meta(max_length=3)] = []
    copies: Annotated[list[float], Meta(max_length=5)] = []

    @property
    def finite(self) -> int:
        """Samples with a finite reward that were looked at."""
        return sum(self.counts)


def read(fields: Mapping[str, object]) -> StepSummary | None:
    """The summary in an event's fields; ``None`` if it is none: it came over the wire from anybody."""
    try:
        found = msgspec.convert(dict(fields), StepSummary)
    except (msgspec.ValidationError, TypeError):
        return None
    relations = (*found.length, *found.repetition, *found.kl)
    numbers = chain(found.values, found.advantage, found.step_mean, found.copies, *relations)
    whole = len(found.values) == len(found.counts) and found.values == sorted(found.values)
    return found if whole and all(abs(each) < _LARGEST for each in numbers) else None


def expanded(summary: StepSummary, step: int | None) -> list[Sample]:
    """Samples with the finite rewards of a step, at most :data:`MAX_EXPANDED`."""
    total = summary.finite
    scale = min(1.0, MAX_EXPANDED / total) if total else 1.0
    made: list[Sample] = []
    due = 0.0
    for value, count in zip(summary.values, summary.counts, strict=True):
        due += count * scale
        whole = round(due) - len(made)
        made += [Sample(step=step, reward=value)] * whole
    return made


def related(summaries: Sequence[StepSummary], name: str, z: float = NORMAL_95) -> tuple[Correlation, str] | None:
    """The correlation of the reward with ``name`` inside prompts' groups if enough samples are in groups that vary,
    else inside steps, and which of both. The sums are exact, so equal to those of the samples but for rounding."""
    parts: list[list[list[float]]] = [getattr(one, name) for one in summaries]
    inside = _added([part[1] for part in parts if len(part) == 2])
    samples = sum(one.finite for one in summaries)
    if inside and inside[0] - inside[1] >= max(_LEAST_DEGREES, samples // 8):
        found, what = _correlation(inside, 0, 1, z), "prompt"
    else:
        found, what = _correlation(_added([part[0] for part in parts if part]), 0, 1, z), "step"
    return None if found is None else (found, what)


def advantage_fit(summaries: Sequence[StepSummary]) -> AdvantageFit | None:
    """How the advantages go with the rewards, as their estimator has it; ``None`` if it is not known."""
    known = ESTIMATORS.get(summaries[-1].estimator or "") if summaries else None
    if known is None:
        return None
    mine = [one for one in summaries if one.estimator == known.name and one.advantage]
    with_kl = bool(mine) and all(len(one.advantage) == 8 for one in mine)
    sums = _added([one.advantage if with_kl else _without_kl(one.advantage) for one in mine])
    found = _correlation(sums, 0, 1)
    if found is None:
        return None
    r = found.r
    if with_kl and sums:
        other, third = _correlation(sums, 0, 2), _correlation(sums, 1, 2)
        held = partial(found.r, other.r, third.r) if other is not None and third is not None else None
        r = found.r if held is None else held
    centres = [one.off_centre for one in mine if one.off_centre is not None]
    off = fsum(centres) / len(centres) if known.centred and centres else None
    return AdvantageFit(known.name, found, r, known.with_kl if with_kl else known.exact, with_kl, off)


def _without_kl(sums: Sequence[float]) -> list[float]:
    return [*sums[:4], sums[5]] if len(sums) == 8 else list(sums)


def _added(parts: Sequence[Sequence[float]]) -> list[float]:
    return [fsum(column) for column in zip(*parts, strict=True)] if parts else []


def _correlation(sums: Sequence[float], one: int, other: int, z: float = NORMAL_95) -> Correlation | None:
    """Of two of the columns whose products are in ``sums``: 5 numbers of two columns, 8 of three."""
    if len(sums) not in (5, 8):
        return None
    width = 2 if len(sums) == 5 else 3

    def product(row: int, column: int) -> float:
        return sums[2 + row * width - row * (row + 1) // 2 + column]

    comoments = Comoments(int(sums[0]), 0.0, 0.0, product(one, one), product(one, other), product(other, other))
    return comoments.correlation(max(1, int(sums[1])), z)
