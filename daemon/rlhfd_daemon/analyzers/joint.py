"""Several metrics that leave their courses together: each too little to matter, all of them a known kind of trouble."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.adaptive import Adaptive
from rlhfd_daemon.analyzers.changes import Drift
from rlhfd_daemon.analyzers.dispatch import Watch
from rlhfd_daemon.analyzers.families import Family
from rlhfd_daemon.analyzers.series import Evidence, SeriesTable, at_step, labels
from rlhfd_daemon.sample import Happening, Sample

__all__ = ["PATTERNS", "RULES", "Joint", "Part", "Pattern"]

IN_A_ROW, CALM = 2, 10  # steps that begin and end a finding
REWARD = ("train/reward", "train/rollout/reward_mean", "rlhfd/reward/mean")
LENGTH = ("train/rollout/response_length_mean", "train/response_length", "rlhfd/response_length/mean")
KL = ("train/kl", "rlhfd/kl/k3")
ENTROPY = ("train/entropy_loss", "rlhfd/entropy/sampled")
GRADIENT = ("train/actor_grad_norm", "rlhfd/policy/gradient_norm_mean")


class Part(NamedTuple):
    """One of ``metrics`` (the first that is there) has moved up or down: to at least ``ratio`` times what was to be
    expected, or by ``share`` of the range that it has covered."""

    metrics: tuple[str, ...]
    is_up: bool
    ratio: float = 0.0
    share: float = 0.0

    def holds(self, drift: Drift) -> bool:
        if drift.sigmas < LEAST_SIGMAS:
            return False
        if self.share:
            return abs(drift.recent - drift.expected) >= self.share * drift.covered
        return (
            drift.recent >= self.ratio * drift.expected if self.is_up else drift.recent * self.ratio <= drift.expected
        )


class Pattern(NamedTuple):
    """All ``parts`` hold, and their standard deviations add up to ``sigmas``. Judged with each value of the first."""

    rule: str
    family: Family
    parts: tuple[Part, ...]
    sigmas: float
    says: str
    remedy: str


LEAST_SIGMAS = 1.0
PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        "hacking_drift", "hacking",
        (Part(REWARD, True, share=0.1), Part(KL, True, ratio=1.3), Part(LENGTH, True, ratio=1.05)), 6.0,
        "reward, KL and response length all rise faster than before",
        "Read samples: this is how a policy looks that has found a hole in the reward, such as length. Penalise what "
        "you find (length: --reward.overlong_buffer_len), raise --algo.kl.init_coef, or stop at the best evaluation.",
    ),
    Pattern(
        "kl_without_reward", "kl",
        (Part(KL, True, ratio=1.5), Part(REWARD, False, share=0.15)), 6.0,
        "KL to the reference rises faster than before while the reward falls",
        "The policy leaves the reference for nothing: lower --actor.adam.lr, raise --algo.kl.init_coef, and go back to "
        "the last checkpoint before it (--ckpt.load_enable).",
    ),
    Pattern(
        "entropy_and_length", "entropy",
        (Part(ENTROPY, True, ratio=1.2), Part(LENGTH, True, ratio=1.2)), 6.0,
        "entropy and response length rise together",
        "Answers turn into garbage that does not end: look at samples, lower --actor.adam.lr, and check that engine "
        "and trainer agree (--algo.advantage.is_correction_level token logs train/vllm_kl).",
    ),
    Pattern(
        "mismatch_and_gradient", "mismatch",
        (Part(("train/vllm_kl", "rlhfd/mismatch/k3"), True, ratio=2.0), Part(GRADIENT, True, ratio=1.5)), 6.0,
        "the mismatch between engine and trainer grows, and the gradients with it",
        "The engine samples from other probabilities than are trained: check the weight sync, the precision on both "
        "sides, and set --algo.advantage.is_correction_level.",
    ),
)  # fmt: skip
RULES = tuple(one.rule for one in PATTERNS)


class _State:
    __slots__ = ("active", "evidence", "hits", "misses", "onset_step")

    def __init__(self) -> None:
        self.active: Finding | None = None
        self.evidence = Evidence()
        self.hits = self.misses = 0
        self.onset_step: int | None = None


class Joint:
    """Judges :data:`PATTERNS` on what ``adaptive`` knows of each metric's course."""

    def __init__(self, adaptive: Adaptive, patterns: Sequence[Pattern] = PATTERNS) -> None:
        self._adaptive = adaptive
        self._by_metric = {
            metric: [one for one in patterns if metric in one.parts[0].metrics]
            for pattern in patterns
            for metric in pattern.parts[0].metrics
        }
        self._states: dict[str, SeriesTable[_State]] = {one.rule: SeriesTable(_State) for one in patterns}

    def watch(self, first: Sample) -> Watch | None:
        is_due = self._adaptive.due(first) if first.name in self._by_metric else None
        if is_due is None:
            return None
        return lambda sample: self.observe(sample) if is_due() else ()

    def observe(self, sample: Sample) -> Iterable[Finding]:
        findings: list[Finding] = []
        for pattern in self._by_metric.get(sample.name, ()):
            drift = self._first(pattern.parts[0], sample)
            state = self._states[pattern.rule].get(sample)
            if drift is not None and state is not None:
                state.evidence.add(sample)
                findings += self._judge(pattern, state, sample, drift)
        return findings

    def happened(self, event: Happening) -> Iterable[Finding]:
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        for table in self._states.values():
            table.forget(run, boot)

    def _judge(self, pattern: Pattern, state: _State, sample: Sample, drift: Drift) -> Iterable[Finding]:
        if not pattern.parts[0].holds(drift) or not self._others_hold(pattern, sample, drift.sigmas):
            state.hits, state.misses = 0, state.misses + 1
            if state.active is None or state.misses < CALM:
                return ()
            ended, state.active = state.active, None
            return (_finding(pattern, state, sample, False, f"no longer: {pattern.says}", ended.baseline),)
        if state.hits == 0 and state.active is None:
            state.onset_step = sample.step
        state.hits, state.misses = state.hits + 1, 0
        if state.active is not None or state.hits < IN_A_ROW:
            return ()
        now = f"{sample.name} is {drift.recent:.4g} instead of {drift.expected:.4g}"
        text = f"{pattern.says}, {at_step(sample.step)}: {now}"
        state.active = _finding(pattern, state, sample, True, text, drift.expected)
        return (state.active,)

    def _first(self, part: Part, sample: Sample) -> Drift | None:
        """The drift of ``sample``'s metric; ``None`` if one that is named before it comes too and is judged instead."""
        for metric in part.metrics:
            if metric == sample.name:
                return self._adaptive.drift(sample, metric, part.is_up)
            if self._adaptive.watches(sample, metric):
                return None
        return None

    def _others_hold(self, pattern: Pattern, sample: Sample, sigmas: float) -> bool:
        for part in pattern.parts[1:]:
            found = (self._adaptive.drift(sample, metric, part.is_up) for metric in part.metrics)
            drift = next((one for one in found if one is not None), None)
            if drift is None or not part.holds(drift):
                return False
            sigmas += drift.sigmas
        return sigmas >= pattern.sigmas


def _finding(
    pattern: Pattern, state: _State, sample: Sample, active: bool, summary: str, baseline: float | None
) -> Finding:
    return Finding(
        run=sample.run,
        boot=sample.boot,
        rule=pattern.rule,
        family=pattern.family,
        metric=sample.name,
        severity=Severity.WARNING,
        active=active,
        step=sample.step,
        time=sample.time,
        value=sample.value,
        baseline=baseline,
        onset_step=state.onset_step,
        onset_time=sample.time,
        summary=summary,
        remedy=pattern.remedy,
        evidence=state.evidence.values(),
        labels=labels(sample),
    )
