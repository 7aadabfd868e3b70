"""What concerns the samples of a run as a whole, in bounded memory: quantiles, steps, repeats, labels, evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.rewards.calibration import Calibration, calibration, probabilities
from rlhfd_daemon.rewards.correlation import Comoments
from rlhfd_daemon.rewards.evaluations import gold, judge_evaluations
from rlhfd_daemon.rewards.issues import Issue
from rlhfd_daemon.rewards.overoptimisation import GoldFit
from rlhfd_daemon.rewards.quantiles import Quantiles
from rlhfd_daemon.rewards.sample import Sample
from rlhfd_daemon.rewards.scoring import Consistency, Normalisation, Stability, consistency, normalisation, stability
from rlhfd_daemon.rewards.steps import Steps

__all__ = ["Overview"]

MAX_KEPT = 50_000  # scores for what is looked at as a whole; the first ones
_JUMPS, _CHANCE = 16.0, 1e-6
_NOISE, _MUCH_NOISE = 0.05, 0.20
_ECE = 0.12
_LEAST = 100


@dataclass(slots=True)
class Overview:
    """Everything is of finite rewards, except for the counts."""

    moments: Comoments = field(default_factory=Comoments)  # of the reward with itself
    quantiles: Quantiles = field(default_factory=Quantiles)
    steps: Steps = field(default_factory=Steps)
    samples: int = 0
    missing: int = 0
    not_finite: int = 0
    failed: int = 0
    _scored: list[tuple[tuple[str | None, str], float]] = field(default_factory=list)
    _labelled: list[tuple[float, bool]] = field(default_factory=list)
    _raw: list[tuple[float, float, int | None]] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        """Count one sample."""
        self.steps.add(sample)
        reward = sample.reward
        if reward is None and sample.eval_reward is not None:
            return
        self.samples += 1
        self.failed += sample.failed
        if reward is None or not isfinite(reward):
            self.missing += reward is None
            self.not_finite += reward is not None
            return
        self.quantiles.add(reward)
        self.moments.add(reward, reward)
        if sample.response is not None and len(self._scored) < MAX_KEPT:
            self._scored.append(((sample.prompt, sample.response), reward))
        if sample.label is not None and len(self._labelled) < MAX_KEPT:
            self._labelled.append((reward if sample.probability is None else sample.probability, sample.label))
        if sample.raw_reward is not None and isfinite(sample.raw_reward) and len(self._raw) < MAX_KEPT:
            self._raw.append((sample.raw_reward, reward, sample.step))

    def finish(self) -> None:
        """No more samples will come."""
        self.steps.finish()

    def stability(self) -> Stability | None:
        """From step to step."""
        return stability(row.mean for row in self.steps.rows if row.mean is not None)

    def consistency(self) -> Consistency | None:
        """Of answers that were scored more than once."""
        return consistency((key for key, _ in self._scored), (reward for _, reward in self._scored))

    def calibration(self) -> tuple[Calibration, str] | None:
        """And how scores became probabilities; ``None`` with fewer than 100 labels."""
        usable = [(score, label) for score, label in self._labelled if isfinite(score)]
        if len(usable) < _LEAST:
            return None
        predicted, how = probabilities([score for score, _ in usable])
        found = calibration(predicted, [label for _, label in usable])
        return None if found is None else (found, how)

    def normalisation(self) -> Normalisation | None:
        """Of the reward against the one before normalisation."""
        raw, rewards, steps = zip(*self._raw, strict=True) if self._raw else ((), (), ())
        return normalisation(raw, rewards, steps)

    def gold(self) -> GoldFit | None:
        """Gao's law, from the steps that have both an evaluation and KL."""
        return gold(self.steps.rows)

    def issues(self, last: int) -> Iterator[Issue]:
        """Issues of the run as a whole; ``last`` is the number of the last sample."""
        rows = self.steps.rows
        ends = {
            "last": last,
            "first_step": rows[0].step if rows else None,
            "last_step": rows[-1].step if rows else None,
        }
        for kind, severity, text, value, limit in (*self._of_scoring(), *self._of_labels(), *judge_evaluations(rows)):
            yield Issue(kind, severity, text, value, limit, first=0, **ends)  # type: ignore[arg-type]

    def _of_scoring(self) -> Iterator[tuple[str, Severity, str, float, float]]:
        jumps = self.stability()
        if jumps is not None and jumps.excess > _JUMPS and jumps.p_value < _CHANCE:
            text = (
                f"over {jumps.steps} steps the mean reward changes by {jumps.excess:.0f} times the variance of chance"
            )
            yield "unstable", Severity.WARNING, text, jumps.excess, _JUMPS
        same = self.consistency()
        if same is not None and same.consistency is not None and 1 - same.consistency > _NOISE:
            severity = Severity.CRITICAL if 1 - same.consistency > _MUCH_NOISE else Severity.WARNING
            text = f"{same.differing} of {same.repeated} answers scored again differ, by up to {same.largest:.4g}"
            yield "inconsistent", severity, text, 1 - same.consistency, _NOISE
        normal = self.normalisation()
        if normal is not None and normal.order < 0.99:
            text = f"rank correlation {normal.order:.3f} between rewards before and after normalisation"
            yield "reordered", Severity.WARNING, text, normal.order, 0.99

    def _of_labels(self) -> Iterator[tuple[str, Severity, str, float, float]]:
        found = self.calibration()
        if found is not None and found[0].ece > _ECE:
            text = f"expected calibration error {found[0].ece:.2f} over {found[0].count} labelled answers ({found[1]})"
            yield "uncalibrated", Severity.INFO, text, found[0].ece, _ECE

    def dead_prompts(self) -> Counter[str]:
        """Prompts seen in at least two steps whose group never had any variance, with how often."""
        return self.steps.dead_prompts()
