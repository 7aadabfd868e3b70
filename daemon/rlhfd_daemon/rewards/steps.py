"""Samples by step, as they come: a row for each step that is over, and prompts whose groups never vary."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import fsum, isfinite, sqrt

from rlhfd_daemon.rewards.sample import Sample
from rlhfd_daemon.rewards.scoring import StepMean, step_mean

__all__ = ["StepRow", "Steps"]

MAX_OPEN = 8
MAX_ROWS = 20_000
MAX_PROMPTS = 100_000
MAX_SAMPLES = 65_536  # of one step; the next ones count as another
WITHOUT_STEP = 1024


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step (or 1024 samples where none is known). ``dead_ratio`` is ``None`` without groups of two. Means are of
    finite values, ``None`` if there are none."""

    step: int | None
    count: int
    missing: int
    reward: float | None
    std: float | None
    length: float | None
    kl: float | None
    eval_reward: float | None
    dead_ratio: float | None
    mean: StepMean | None


@dataclass(slots=True)
class _Open:
    count: int = 0
    missing: int = 0
    rewards: list[float] = field(default_factory=list)
    groups: dict[str | None, list[float]] = field(default_factory=dict)
    others: dict[str, list[float]] = field(default_factory=lambda: {"length": [], "kl": [], "eval_reward": []})

    def add(self, sample: Sample) -> None:
        for name, kept in self.others.items():
            value = getattr(sample, name)
            if value is not None and isfinite(value):
                kept.append(value)
        if sample.reward is None and sample.eval_reward is not None:
            return
        self.count += 1
        if sample.reward is None or not isfinite(sample.reward):
            self.missing += 1
            return
        self.rewards.append(sample.reward)
        key = sample.prompt if sample.prompt is not None else f"\0{self.count}"
        self.groups.setdefault(key, []).append(sample.reward)

    def row(self, step: int | None) -> StepRow:
        groups = [one for one in self.groups.values() if len(one) > 1]
        mean = _mean(self.rewards)
        std = None
        if mean is not None and len(self.rewards) > 1:
            std = sqrt(fsum((value - mean) ** 2 for value in self.rewards) / (len(self.rewards) - 1))
        length, kl, eval_reward = (_mean(self.others[name]) for name in ("length", "kl", "eval_reward"))
        return StepRow(
            step=step,
            count=self.count,
            missing=self.missing,
            reward=mean,
            std=std,
            length=length,
            kl=kl,
            eval_reward=eval_reward,
            dead_ratio=sum(1 for one in groups if max(one) == min(one)) / len(groups) if groups else None,
            mean=step_mean(self.groups.values()),
        )


class Steps:
    """Eight steps may be under way at once; a sample of one that is over already counts as a step of its own."""

    def __init__(self) -> None:
        self.rows: list[StepRow] = []
        self.thinned = 1  # each row stands for so many steps
        self._open: dict[int | None, _Open] = {}
        self._skip = 0
        self._visits: dict[str, tuple[int, bool]] = {}

    def add(self, sample: Sample) -> None:
        """Count one sample."""
        under_way = self._open.get(sample.step)
        if under_way is None:
            under_way = self._open[sample.step] = _Open()
            if len(self._open) > MAX_OPEN:
                self._close(next(iter(self._open)))
        under_way.add(sample)
        if under_way.count >= (WITHOUT_STEP if sample.step is None else MAX_SAMPLES):
            self._close(sample.step)

    def finish(self) -> None:
        """All steps are over."""
        for step in list(self._open):
            self._close(step)

    def dead_prompts(self) -> Counter[str]:
        """How often each prompt was seen that never had a group with variance, in two steps at least."""
        return Counter({prompt: seen for prompt, (seen, alive) in self._visits.items() if seen > 1 and not alive})

    def _close(self, step: int | None) -> None:
        under_way = self._open.pop(step)
        for prompt, rewards in under_way.groups.items():
            known = prompt is not None and not prompt.startswith("\0") and len(rewards) > 1
            if prompt is not None and known and (prompt in self._visits or len(self._visits) < MAX_PROMPTS):
                seen, alive = self._visits.get(prompt, (0, False))
                self._visits[prompt] = (seen + 1, alive or max(rewards) > min(rewards))
        self._skip += 1
        if self._skip >= self.thinned:
            self._skip = 0
            self.rows.append(under_way.row(step))
        if len(self.rows) > MAX_ROWS:  # the course of the run stays, at half the resolution
            self.rows = self.rows[::2]
            self.thinned *= 2


def _mean(values: list[float]) -> float | None:
    return fsum(values) / len(values) if values else None
