"""The rewards of single answers, from the summaries that the emitter sends of each step, and evaluations beside."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import isfinite

from rlhfd_alerts.finding import Finding
from rlhfd_daemon.analyzers.dispatch import Watch
from rlhfd_daemon.analyzers.families import Family
from rlhfd_daemon.config_analyzers import RewardConfig
from rlhfd_daemon.rewards.evaluations import judge_evaluations
from rlhfd_daemon.rewards.issues import KINDS, Issue
from rlhfd_daemon.rewards.online import Online
from rlhfd_daemon.rewards.summary import EVENT, read
from rlhfd_daemon.sample import Happening, Sample

__all__ = ["SUBJECTS", "RewardSamples", "rule_of"]

MAX_RUNS = 1024
MAX_EVALUATIONS, MAX_SETS = 1000, 16
_REWARD, _KL = "train/rollout/reward_mean", "train/kl"
_MEAN, _SPREAD, _ADVANTAGE = "rlhfd/reward/mean", "rlhfd/reward/std", "rlhfd/correlation/advantage_reward"
# By kind of issue: the family, and the metric that it is about.
SUBJECTS: dict[str, tuple[Family, str]] = {
    "constant": ("reward", _SPREAD),
    "saturated": ("reward", "rlhfd/reward/clipped_ratio"),
    "outliers": ("reward", "rlhfd/reward/max"),
    "repeated_value": ("reward", "rlhfd/reward/p50"),
    "out_of_range": ("reward", "rlhfd/reward/max"),
    "shifted": ("reward", _MEAN),
    "drifted": ("reward", _MEAN),
    "spread_changed": ("reward", _SPREAD),
    "follows_length": ("hacking", "rlhfd/correlation/reward_length"),
    "follows_repetition": ("hacking", "rlhfd/repetition/seq_rep_4"),
    "follows_kl": ("hacking", "rlhfd/correlation/kl_reward"),
    "advantage_reversed": ("advantage", _ADVANTAGE),
    "advantage_weak": ("advantage", _ADVANTAGE),
    "advantage_off_centre": ("advantage", "rlhfd/advantage/mean"),
    "unstable": ("reward", _MEAN),
    "inconsistent": ("reward", _SPREAD),
    "over_optimised": ("hacking", "rlhfd/correlation/kl_reward"),
}


def rule_of(kind: str) -> str:
    """The id of the rule for issues of a kind."""
    return f"samples_{kind}"


@dataclass(frozen=True, slots=True)
class _Row:
    reward: float | None
    kl: float | None
    eval_reward: float | None


@dataclass(slots=True)
class _Run:
    """What is known of one launch. ``active``: by kind, its finding and the looks since it was last seen."""

    online: Online
    active: dict[str, tuple[Finding, int]] = field(default_factory=dict)
    kl: float | None = None
    rewards: list[float] = field(default_factory=list)  # since the last evaluation
    evaluations: dict[str, deque[_Row]] = field(default_factory=dict)


class RewardSamples:
    """An issue begins when it is seen, and ends when it was not in ``clear_after`` looks in a row."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._runs: dict[tuple[str, str], _Run] = {}

    def watch(self, first: Sample) -> Watch | None:
        return self.observe if first.name in (_REWARD, _KL) or first.name.startswith("eval/") else None

    def observe(self, sample: Sample) -> Iterable[Finding]:
        run = self._run(sample)
        if run is None or not isfinite(sample.value):
            return ()
        if sample.name == _KL:
            run.kl = sample.value
        elif sample.name == _REWARD:
            run.rewards.append(sample.value)
            del run.rewards[:-MAX_EVALUATIONS]
        elif sample.name.endswith("_pass1"):
            return list(self._evaluated(run, sample))
        return ()

    def happened(self, event: Happening) -> Iterable[Finding]:
        if event.name != EVENT:
            return ()
        run, summary = self._run(event), read(event.fields)
        if run is None or summary is None:
            return ()
        seen = run.online.add(event.step, summary)
        if seen is None:
            return ()
        issues = {issue.kind: issue for issue in seen if issue.kind in SUBJECTS}
        return list(self._follow(run, event, issues, set(run.active) - {"over_optimised"}))

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        self._runs.pop((run, boot), None)

    def _run(self, of: Sample | Happening) -> _Run | None:
        known = self._runs.get((of.run, of.boot))
        if known is None and len(self._runs) < MAX_RUNS:
            known = self._runs[of.run, of.boot] = _Run(Online(self._config.window_samples))
        return known

    def _evaluated(self, run: _Run, sample: Sample) -> Iterator[Finding]:
        if sample.name not in run.evaluations and len(run.evaluations) >= MAX_SETS:
            return
        rows = run.evaluations.setdefault(sample.name, deque(maxlen=MAX_EVALUATIONS))
        mean = sum(run.rewards) / len(run.rewards) if run.rewards else None
        rows.append(_Row(mean, run.kl, sample.value))
        run.rewards.clear()
        issues = {
            kind: Issue(kind, severity, text, value, limit, first_step=sample.step, last_step=sample.step)
            for kind, severity, text, value, limit in judge_evaluations(rows)
        }
        yield from self._follow(run, sample, issues, set(run.active) & {"over_optimised"})

    def _follow(
        self, run: _Run, at: Sample | Happening, issues: dict[str, Issue], watched: set[str]
    ) -> Iterator[Finding]:
        """Begin what is new, and end what of ``watched`` has not been seen for long enough."""
        for kind, issue in issues.items():
            known = run.active.get(kind)
            finding = _finding(at, issue) if known is None else known[0]
            if known is None or (issue.severity.rank > finding.severity.rank):
                finding = _finding(at, issue)
                yield finding
            run.active[kind] = (finding, 0)
        for kind in watched - issues.keys():
            finding, missed = run.active[kind]
            run.active[kind] = (finding, missed + 1)
            if missed + 1 >= self._config.clear_after:
                del run.active[kind]
                yield _over(finding, at)


def _finding(at: Sample | Happening, issue: Issue) -> Finding:
    family, metric = SUBJECTS[issue.kind]
    return Finding(
        run=at.run,
        boot=at.boot,
        rule=rule_of(issue.kind),
        family=family,
        metric=metric,
        severity=issue.severity,
        active=True,
        step=at.step,
        time=at.time,
        value=issue.value,
        baseline=issue.limit,
        onset_step=at.step,
        onset_time=at.time,
        summary=issue.summary,
        remedy=KINDS[issue.kind].remedy,
        labels=(("role", at.role),),
    )


def _over(finding: Finding, at: Sample | Happening) -> Finding:
    return replace(finding, active=False, step=at.step, time=at.time)
