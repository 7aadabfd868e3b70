"""The rewards of a run as its steps come: what is wrong with the newest window of samples, seen from summaries only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import fmean, pvariance

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.rewards.issues import Issue
from rlhfd_daemon.rewards.judge_relations import advantage_issue, follows_issue
from rlhfd_daemon.rewards.judge_values import judge_changes, judge_levels
from rlhfd_daemon.rewards.scoring import StepMean, stability
from rlhfd_daemon.rewards.special import NORMAL_999
from rlhfd_daemon.rewards.summary import RELATED, StepSummary, advantage_fit, expanded, related
from rlhfd_daemon.rewards.window import Settings, Window

__all__ = ["MAX_STEPS", "Online"]

MAX_STEPS = 512
_STEPS_OF_STABILITY = 32
_INCONSISTENT, _VERY_INCONSISTENT = 0.05, 0.20
_LEAST_COPIES = 8


@dataclass(frozen=True, slots=True)
class _Step:
    number: int | None
    summary: StepSummary


class Online:
    """``window`` finite samples, or the steps that hold so many, are looked at together: the newest against those
    before, and against the first ones, which stay frozen. Memory is bounded by :data:`MAX_STEPS` summaries."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._reference: list[_Step] = []
        self._steps: deque[_Step] = deque(maxlen=MAX_STEPS)
        self._unseen = 0  # samples

    def add(self, number: int | None, summary: StepSummary) -> list[Issue] | None:
        """Take one step, in order, and say what is wrong now. ``None``: not looked at, since there is no whole window
        yet, or not half a new one."""
        one = _Step(number, summary)
        if _samples(self._reference) < self._window:
            self._reference.append(one)
        self._steps.append(one)
        self._unseen += summary.finite
        now = self._newest(0)
        if _samples(now) < self._window or self._unseen < self._window // 2:
            return None
        self._unseen = 0
        before = self._newest(len(now))
        return list(self._judged(now, before if _samples(before) >= self._window else []))

    def _newest(self, skip: int) -> list[_Step]:
        """The steps before the ``skip`` newest ones that hold a window of samples; fewer if there are not so many."""
        found: list[_Step] = []
        held = 0
        for place in range(len(self._steps) - skip - 1, -1, -1):
            if held >= self._window:
                break
            found.append(self._steps[place])
            held += self._steps[place].summary.finite
        return found[::-1]

    def _judged(self, now: list[_Step], before: list[_Step]) -> Iterator[Issue]:
        window = _window(now)
        yield from judge_levels(window, Settings(clip=now[-1].summary.clip))
        if before:
            yield from self._changes(window, _window(before))
        summaries = [one.summary for one in now]
        for name in RELATED:
            found = related(summaries, name, NORMAL_999)
            if found is not None:
                yield from follows_issue(window, name, *found)
        fit = advantage_fit(summaries)
        if fit is not None:
            yield from advantage_issue(window, fit)
        yield from self._unstable(window)
        yield from _inconsistent(window, summaries)

    def _changes(self, window: Window, before: Window) -> Iterator[Issue]:
        """A distribution that drifts upwards is what learning does: no issue while the run is under way."""
        reference = _window(self._reference)
        rises = fmean(window.rewards) > fmean(reference.rewards)
        for issue in judge_changes(window, reference, before):
            if issue.kind != "drifted" or not rises:
                yield issue

    def _unstable(self, window: Window) -> Iterator[Issue]:
        told = [one.summary.step_mean for one in list(self._steps)[-_STEPS_OF_STABILITY:]]
        found = stability(StepMean(one[0], one[1], int(one[2])) for one in told if len(one) == 3 and one[2] >= 1)
        if found is not None and found.excess > 16 and found.p_value < 1e-6:
            text = f"the means of {found.steps} steps vary {found.excess:.0f} times as much as their samples explain"
            yield window.placed(partial(Issue, "unstable", Severity.WARNING, text, found.excess, 16.0))


def _inconsistent(window: Window, summaries: list[StepSummary]) -> Iterator[Issue]:
    told = [one.copies for one in summaries if len(one.copies) == 5]
    repeated, differing, squares, degrees = (sum(one[place] for one in told) for place in (0, 1, 3, 4))
    rewards = window.rewards
    if repeated < _LEAST_COPIES or differing <= 0 or min(squares, degrees) <= 0:
        return
    noise = squares / degrees / max(squares / degrees, pvariance(rewards))
    if noise > _INCONSISTENT:
        severity = Severity.CRITICAL if noise > _VERY_INCONSISTENT else Severity.WARNING
        text = f"{differing:.0f} of {repeated:.0f} answers that came twice got different scores: {noise:.0%} is noise"
        yield window.placed(partial(Issue, "inconsistent", severity, text, noise, _INCONSISTENT))


def _samples(steps: list[_Step]) -> int:
    return sum(one.summary.finite for one in steps)


def _window(steps: list[_Step]) -> Window:
    return Window(0, [sample for one in steps for sample in expanded(one.summary, one.number)])
