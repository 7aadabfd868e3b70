"""Takes samples one by one and says what is wrong with their rewards; memory is bounded whatever their number.

The first ``window`` samples are the frozen reference. Every half window the newest whole window is judged against it
and against the window before. What concerns the run as a whole is kept as sums (:mod:`overview`).
"""

from __future__ import annotations

from collections.abc import Iterator

from rlhfd_daemon.rewards.issues import Issue, merged
from rlhfd_daemon.rewards.judge_relations import judge_relations
from rlhfd_daemon.rewards.judge_values import LEAST, judge_changes, judge_levels, judge_validity
from rlhfd_daemon.rewards.overview import Overview
from rlhfd_daemon.rewards.sample import Sample
from rlhfd_daemon.rewards.window import Settings, Window

__all__ = ["Analysis"]

MAX_ISSUES = 2000


class Analysis:
    """``add`` samples in order, then ``issues()``; ``overview`` is what there is to say of all of them."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.overview = Overview()
        self.reference: Window | None = None
        self.latest: Window | None = None
        self.count = 0
        self._size = self.settings.window
        self._recent: list[Sample] = []
        self._judged = 0  # samples
        self._issues: list[Issue] = []

    def add(self, sample: Sample) -> None:
        """One sample. One that has an evaluation's reward and no other counts for the evaluation only."""
        self.overview.add(sample)
        if sample.reward is None and sample.eval_reward is not None:
            return
        self._recent.append(sample)
        self.count += 1
        if self.reference is None and self.count == 2 * self._size:
            self._begin()
        elif self.reference is not None and self.count - self._judged >= max(1, self._size // 2):
            self._look()

    def finish(self) -> None:
        """No more samples will come: judge what has not been. A short file is cut into four windows."""
        self.overview.finish()
        if self.reference is None and self._recent:
            self._size = max(LEAST, self.count // 4)
            rest, self._recent, self.count = self._recent, [], 0
            for sample in rest:
                self._recent.append(sample)
                self.count += 1
                if self.reference is None and self.count == min(2 * self._size, len(rest)):
                    self._begin()
                elif self.reference is not None and self.count - self._judged >= self._size // 2:
                    self._look()
        if self.count > self._judged:
            self._look()

    def issues(self) -> list[Issue]:
        """The worst first, those of one kind that follow each other as one."""
        return merged((*self._issues, *self.overview.issues(max(0, self.count - 1))))

    def _begin(self) -> None:
        """The reference is judged, too, as far as that goes without another one."""
        self.reference = Window(0, tuple(self._recent[: self._size]))
        self._keep(self._alone(self.reference))
        self._look()

    def _look(self) -> None:
        """Judge the newest window; then only what the next may need is kept."""
        assert self.reference is not None
        size = self._size
        now = self._recent[-size:]
        before = self._recent[max(0, len(self._recent) - 2 * size) : len(self._recent) - len(now)]
        self.latest = Window(self.count - len(now), tuple(now))
        if before:
            self._keep(self._alone(self.latest))
            self._keep(judge_changes(self.latest, self.reference, Window(0, before)))
        self._judged = self.count
        self._recent = self._recent[-2 * size :]

    def _alone(self, window: Window) -> Iterator[Issue]:
        yield from judge_validity(window, self.settings)
        yield from judge_levels(window, self.settings)
        yield from judge_relations(window, None if window is self.reference else self.reference, self.settings)

    def _keep(self, issues: Iterator[Issue]) -> None:
        self._issues += issues
        if len(self._issues) > MAX_ISSUES:
            self._issues = sorted(merged(self._issues), key=lambda one: one.first)[-MAX_ISSUES:]
