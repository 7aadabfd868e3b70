"""A stretch of samples as the judges look at it: its usable rewards, and what belongs to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

from rlhfd_daemon.rewards.issues import Issue
from rlhfd_daemon.rewards.sample import Sample
from rlhfd_daemon.rewards.values import finite, is_graded

__all__ = ["Settings", "Window"]


@dataclass(frozen=True, slots=True)
class Settings:
    """``window`` samples are looked at together; ``clip`` is the reward's range, ``estimator`` how advantages were
    made (``None``: recognised if possible), ``deadline_seconds`` when a reward call is late (``None``: never)."""

    window: int = 512
    clip: tuple[float, float] | None = None
    estimator: str | None = None
    deadline_seconds: float | None = None


class Window:
    """``samples`` in the file's order, the first of which has the number ``first``."""

    def __init__(self, first: int, samples: Sequence[Sample]) -> None:
        self.first = first
        self.samples = samples

    def placed(self, issue: Callable[..., Issue], **values: object) -> Issue:
        """An issue that holds for this window."""
        steps = [one.step for one in self.samples if one.step is not None]
        return issue(
            **values,
            first=self.first,
            last=self.first + len(self.samples) - 1,
            first_step=min(steps, default=None),
            last_step=max(steps, default=None),
        )

    @cached_property
    def rewards(self) -> list[float]:
        """The finite ones."""
        return finite([one.reward for one in self.samples])

    @cached_property
    def graded(self) -> bool:
        """Whether they come from few levels."""
        return is_graded(self.rewards)

    def having(self, *names: str) -> list[Sample]:
        """The samples with a finite reward that have finite numbers in all these fields."""
        found = [one for one in self.samples if _is_finite(one.reward)]
        for name in names:
            found = [one for one in found if _is_finite(getattr(one, name))]
        return found

    @cached_property
    def whole_groups(self) -> list[Sample]:
        """Samples with a finite reward whose prompt's group the window does not cut: those of its inner steps if it has
        three and more, else all but those of the first and the last group."""
        usable = [one for one in self.samples if _is_finite(one.reward) and one.prompt is not None]
        if not usable:
            return []
        edges = {self.samples[0].step, self.samples[-1].step}
        inner = [one for one in usable if one.step not in edges]
        if inner and None not in edges:
            return inner
        cut = {group_of(self.samples[0]), group_of(self.samples[-1])}
        return [one for one in usable if group_of(one) not in cut]


def group_of(sample: Sample) -> Hashable:
    """Answers to one prompt in one step."""
    return (sample.step, sample.prompt)


def strata_of(samples: Sequence[Sample], least: int = 50) -> tuple[list[Sample], list[Hashable], str]:
    """The samples of strata in which the reward varies, their strata, and what these are: prompts' groups if enough
    samples are in such groups, else steps."""
    live = _varying(samples, group_of) if any(one.prompt is not None for one in samples) else []
    groups = len({group_of(one) for one in live})
    if len(live) - groups >= max(least, len(samples) // 8):
        return live, [group_of(one) for one in live], "prompt"
    live = _varying(samples, lambda sample: sample.step)
    return live, [one.step for one in live], "step"


def _varying(samples: Sequence[Sample], key: Callable[[Sample], Hashable]) -> list[Sample]:
    levels = Counter(found for found, _ in {(key(one), one.reward) for one in samples})
    return [one for one in samples if levels[key(one)] > 1]


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)
