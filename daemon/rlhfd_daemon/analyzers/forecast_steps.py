"""Predictions by steps: responses that will reach their cap, entropy that will reach its floor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isfinite

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.dispatch import Watch
from rlhfd_daemon.analyzers.families import Family
from rlhfd_daemon.analyzers.line import Line, course, fit
from rlhfd_daemon.analyzers.series import EVIDENCE, MAX_SERIES, labels
from rlhfd_daemon.config_analyzers import ForecastConfig
from rlhfd_daemon.interpret import context_of
from rlhfd_daemon.runs import DAEMON_ROLE
from rlhfd_daemon.sample import Happening, Sample, SeriesKey

__all__ = ["ENTROPY", "LENGTH", "StepForecast"]

LENGTH, ENTROPY = "length_cap_reached", "entropy_floor"
LENGTHS = ("train/rollout/response_length_mean",)
ENTROPIES = ("train/entropy_loss",)
REWARDS = ("train/rollout/reward_mean", "train/reward")
CAPS = ("rollout.max_new_tokens", "generate_max_len")
SOON_STEPS = 10  # a cap so near is a warning
WINDOW = 40
LEAST = 20
CHECK_EVERY = 10
LATE_STEPS = 8
MIN_R2 = 0.85
MAX_RUNS = 4096
LENGTH_REMEDY = (
    "Responses at the cap are cut off and mostly get no reward: raise --rollout.max_new_tokens (and --data.max_len) if "
    "the length is wanted, else penalise it (--reward.overlong_buffer_len, --reward.overlong_penalty_factor) or look "
    "for a reward that grows with length."
)
ENTROPY_REMEDY = (
    "The policy is about to answer the same to everything, without more reward for it: set --actor.entropy_coef, raise "
    "--rollout.temperature or --algo.kl.init_coef, or lower --actor.adam.lr."
)


class Window:
    """The newest values by step, in order of steps; the same step twice counts once, an earlier one begins anew."""

    __slots__ = ("_count", "steps", "values")

    def __init__(self) -> None:
        self._count = 0
        self.steps: list[int] = []
        self.values: list[float] = []

    def take(self, step: int, value: float) -> bool:
        """Take in one value: True if it is time to look."""
        if self.steps and step <= self.steps[-1]:
            if step > self.steps[-1] - LATE_STEPS:
                return False
            self.steps.clear()
            self.values.clear()
        self.steps.append(step)
        self.values.append(value)
        if len(self.steps) > WINDOW:
            del self.steps[0], self.values[0]
        self._count += 1
        return self._count % CHECK_EVERY == 0

    def may_reach(self, floor: float, steps: float) -> bool:
        """Whether the last value could fall to ``floor`` in so many steps, three times as fast as since the highest."""
        fall = (max(self.values) - self.values[-1]) / len(self.values)
        return self.values[-1] - 3 * fall * steps <= floor

    def line(self) -> Line | None:
        """The line through the values, if they follow one."""
        line = course(self.steps, self.values) if len(self.steps) >= LEAST else None
        return line if line is not None and line.r2 >= MIN_R2 else None

    def is_rising(self) -> bool:
        """Whether the values clearly rise."""
        line = fit(self.steps, self.values)
        return line is not None and line.slope > 3 * line.error


@dataclass(frozen=True)
class _Prospect:
    severity: Severity
    limit: float
    text: str


class _Course:
    """One metric of one process on its way to a limit. The alert ends when it is not at two looks in a row."""

    def __init__(self, rule: str, family: Family, remedy: str) -> None:
        self.window = Window()
        self._rule, self._family, self._remedy = rule, family, remedy
        self._active: Finding | None = None
        self._calm = 0

    def decide(self, sample: Sample, prospect: _Prospect | None) -> Iterable[Finding]:
        active = self._active
        if prospect is None:
            self._calm += 1
            if active is None or self._calm < 2:
                return ()
            self._active = None
            text = f"{sample.name} is {sample.value:.4g} at step {sample.step} and no longer on that way"
            over = replace(active, active=False, step=sample.step, time=sample.time, value=sample.value, summary=text)
            return (over,)
        self._calm = 0
        if active is not None and active.severity.rank >= prospect.severity.rank:
            return ()
        self._active = Finding(
            run=sample.run,
            boot=sample.boot,
            rule=self._rule,
            family=self._family,
            metric=sample.name,
            severity=prospect.severity,
            active=True,
            step=sample.step,
            time=sample.time,
            value=sample.value,
            baseline=prospect.limit,
            onset_step=sample.step if active is None else active.onset_step,
            onset_time=sample.time if active is None else active.onset_time,
            summary=prospect.text,
            remedy=self._remedy,
            evidence=tuple(zip(self.window.steps, self.window.values, strict=True))[-EVIDENCE:],
            labels=labels(sample),
        )
        return (self._active,)


class StepForecast:
    """Looks at every tenth value. The cap is what the run's arguments say; without one nothing is predicted of it."""

    def __init__(self, config: ForecastConfig) -> None:
        self._config = config
        self._caps: dict[tuple[str, str], float] = {}
        self._watches: dict[SeriesKey, Watch | None] = {}
        self._rewards: dict[tuple[str, str], Window] = {}

    def watch(self, first: Sample) -> Watch | None:
        if len(self._watches) >= MAX_SERIES:
            return None
        name = first.name
        if name in LENGTHS:
            length = _Course(LENGTH, "length", LENGTH_REMEDY)
            return lambda sample: self._length(length, sample)
        if name in ENTROPIES:
            entropy = _Course(ENTROPY, "entropy", ENTROPY_REMEDY)
            return lambda sample: self._entropy(entropy, sample)
        if name in REWARDS and len(self._rewards) < MAX_RUNS and (first.run, first.boot) not in self._rewards:
            self._rewards[first.run, first.boot] = Window()
            return self._reward
        return None

    def observe(self, sample: Sample) -> Iterable[Finding]:
        key = sample.series
        watch = self._watches[key] if key in self._watches else self._watches.setdefault(key, self.watch(sample))
        return () if watch is None else watch(sample)

    def happened(self, event: Happening) -> Iterable[Finding]:
        fields = event.fields
        if event.name == "run_context" and event.role == DAEMON_ROLE:
            fields = fields.get("context", {})
        elif event.name != "run_start":
            return ()
        if isinstance(fields, dict) and len(self._caps) < MAX_RUNS:
            cap = context_of(fields).number(*CAPS)
            if cap is not None and cap > 0:
                self._caps[event.run, event.boot] = cap
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        self._caps.pop((run, boot), None)
        self._rewards.pop((run, boot), None)
        self._watches = {key: one for key, one in self._watches.items() if key[:2] != (run, boot)}

    def _reward(self, sample: Sample) -> Iterable[Finding]:
        """Of :data:`REWARDS` the one that comes first: they differ little."""
        if sample.step is not None and isfinite(sample.value):
            self._rewards[sample.run, sample.boot].take(sample.step, sample.value)
        return ()

    def _length(self, course: _Course, sample: Sample) -> Iterable[Finding]:
        cap = self._caps.get((sample.run, sample.boot))
        if cap is None or sample.step is None or not isfinite(sample.value):
            return ()
        if not course.window.take(sample.step, sample.value):
            return ()
        line = course.window.line()
        if line is None or line.slope <= 0 or line.at_end < self._config.length_ratio * cap:
            return course.decide(sample, None)
        ahead = (cap - line.at_end) / line.slope
        if ahead > min(self._config.length_steps, line.lasts):
            return course.decide(sample, None)
        if sample.value >= cap:  # there already: no prediction any more
            return ()
        text = (
            f"{sample.name} is {sample.value:.4g} at step {sample.step} and grows by {line.slope:.3g} a step: it "
            f"reaches the cap of {cap:.0f} tokens in about {max(2.0, ahead):.0f} steps"
        )
        severity = Severity.WARNING if ahead <= SOON_STEPS else Severity.INFO
        return course.decide(sample, _Prospect(severity, cap, text))

    def _entropy(self, course: _Course, sample: Sample) -> Iterable[Finding]:
        if sample.step is None or not isfinite(sample.value) or not course.window.take(sample.step, sample.value):
            return ()
        floor, steps = self._config.entropy_floor, self._config.entropy_steps
        line = course.window.line() if course.window.may_reach(floor, steps) else None
        if line is None or line.slope >= 0:
            return course.decide(sample, None)
        ahead = (floor - line.at_end) / line.slope
        reward = self._rewards.get((sample.run, sample.boot))
        is_far = ahead > min(steps, line.lasts)
        if is_far or (reward is not None and reward.is_rising()):
            return course.decide(sample, None)
        if sample.value <= floor:  # as above
            return ()
        text = (
            f"{sample.name} is {sample.value:.4g} at step {sample.step} and falls by {-line.slope:.3g} a step without "
            f"the reward rising: it reaches {floor:g} in about {max(2.0, ahead):.0f} steps"
        )
        return course.decide(sample, _Prospect(Severity.INFO, floor, text))
