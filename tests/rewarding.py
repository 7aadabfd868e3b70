"""Made runs of scored answers, healthy and with a planted fault: three scorers, groups of eight answers to a prompt."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.rewards.sample import Sample

GROUP = 8
PROMPTS = 16  # of a step
STEPS = 40
ONSET = 20  # the step from which a fault holds

Fault = Callable[[Sample, random.Random], Sample]


@dataclass(frozen=True)
class Scorer:
    """``score`` gives the reward of an answer of a prompt: (how far the run is, ease of the prompt, chance)."""

    name: str
    score: Callable[[float, float, random.Random], float]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


SCORERS = (
    Scorer("verifier", lambda done, ease, rng: float(rng.random() < _sigmoid(-1 + 1.5 * done + 1.2 * ease))),
    Scorer("reward_model", lambda done, ease, rng: 0.8 * done + 0.6 * ease + rng.gauss(0, 1)),
    Scorer("sparse", lambda done, ease, rng: float(rng.random() < _sigmoid(-2.4 + 1.5 * done + 1.5 * ease))),
    Scorer("rubric", lambda done, ease, rng: round(min(1.0, max(0.0, 0.4 + 0.2 * done + 0.15 * ease
                                                                + rng.gauss(0, 0.25))), 1)),
)  # fmt: skip
VERIFIER, MODEL, SPARSE, RUBRIC = SCORERS


def run(scorer: Scorer, seed: int, fault: Fault | None = None, estimator: str = "dr_grpo") -> Iterator[Sample]:
    """All samples of a run; ``fault`` changes those from step ``ONSET`` on. Advantages are made of the result."""
    rng = random.Random(seed)
    for step in range(STEPS):
        done = step / STEPS
        for prompt in range(PROMPTS):
            ease = rng.gauss(0, 1)
            group = [_answer(scorer, rng, step, f"p{step}-{prompt}", done, ease) for _ in range(GROUP)]
            if fault is not None and step >= ONSET:
                group = [fault(sample, rng) for sample in group]
            yield from _with_advantages(group, estimator)


def _answer(scorer: Scorer, rng: random.Random, step: int, prompt: str, done: float, ease: float) -> Sample:
    reward = scorer.score(done, ease, rng)
    return Sample(
        step=step,
        prompt=prompt,
        response=f"{rng.getrandbits(64):x}",
        reward=reward,
        raw_reward=reward,
        # Hard prompts have long answers, and the run makes answers longer: neither is the reward's doing.
        length=float(max(8, round(rng.gauss(200 + 200 * done - 60 * ease, 40)))),
        repetition=abs(rng.gauss(0.05, 0.03)),
        kl=0.0,
        label=rng.random() < _sigmoid(2.5 * (reward - 0.5)),
        latency_seconds=rng.lognormvariate(-1, 0.4),
    )


def _with_advantages(group: list[Sample], estimator: str) -> list[Sample]:
    rewards = [sample.reward or 0.0 for sample in group]
    mean = fmean(rewards)
    if not math.isfinite(mean):
        return [replace(sample, advantage=math.nan) for sample in group]
    scale = {"dr_grpo": 1.0, "rloo": GROUP / (GROUP - 1), "group_norm": 1 / (stdev(rewards) + 1e-9)}[estimator]
    return [replace(sample, advantage=(reward - mean) * scale) for sample, reward in zip(group, rewards, strict=True)]


def changed(change: Callable[[float, Sample, random.Random], float | None]) -> Fault:
    """A fault that changes the reward only."""

    def fault(sample: Sample, rng: random.Random) -> Sample:
        reward = change(sample.reward or 0.0, sample, rng)
        return replace(sample, reward=reward, raw_reward=reward)

    return fault


def broken(**changes: object) -> Fault:
    return lambda sample, rng: replace(sample, **changes)  # type: ignore[arg-type]


def slow(sample: Sample, rng: random.Random) -> Sample:
    return replace(sample, latency_seconds=10 * (sample.latency_seconds or 0.0))


def nan(reward: float, sample: Sample, rng: random.Random) -> float:
    return math.nan if rng.random() < 0.03 else reward


# The issue that a fault is, the scorer that has it, and how grave it is.
FAULTS: list[tuple[str, Scorer, Fault, Severity]] = [
    ("constant", VERIFIER, changed(lambda r, s, g: 1.0), Severity.CRITICAL),
    ("constant", MODEL, changed(lambda r, s, g: 1.0), Severity.CRITICAL),
    ("dead_groups", VERIFIER, changed(lambda r, s, g: float(int(s.prompt[-1:] or "0") % 2)), Severity.CRITICAL),  # type: ignore[index]
    ("missing", SPARSE, changed(nan), Severity.CRITICAL),
    ("missing", MODEL, broken(reward=None), Severity.CRITICAL),
    ("failed", MODEL, broken(failed=True), Severity.CRITICAL),
    ("late", VERIFIER, slow, Severity.WARNING),
    ("follows_length", MODEL, changed(lambda r, s, g: r + ((s.length or 0) - 300) / 40), Severity.CRITICAL),
    ("follows_length", VERIFIER, changed(lambda r, s, g: r + ((s.length or 0) - 300) / 40), Severity.CRITICAL),
    ("follows_repetition", RUBRIC, changed(lambda r, s, g: r + (s.repetition or 0) * 40), Severity.CRITICAL),
    ("spread_changed", MODEL, changed(lambda r, s, g: r * 10), Severity.WARNING),
    ("spread_changed", MODEL, changed(lambda r, s, g: r + g.gauss(0, 4)), Severity.WARNING),
    ("out_of_range", VERIFIER, changed(lambda r, s, g: r * 10), Severity.WARNING),
    ("saturated", MODEL, changed(lambda r, s, g: max(-0.5, min(0.5, r))), Severity.WARNING),
    ("outliers", MODEL, changed(lambda r, s, g: 500.0 if g.random() < 0.02 else r), Severity.WARNING),
    ("repeated_value", MODEL, changed(lambda r, s, g: 0.0 if g.random() < 0.1 else r), Severity.WARNING),
    ("repeated_value", VERIFIER, changed(lambda r, s, g: 0.5 if g.random() < 0.1 else r), Severity.WARNING),
    ("shifted", RUBRIC, changed(lambda r, s, g: min(1.0, r + 0.4)), Severity.WARNING),
    ("shifted", MODEL, changed(lambda r, s, g: r + 2), Severity.WARNING),
    ("label_agreement_lost", MODEL, changed(lambda r, s, g: -r), Severity.CRITICAL),
    ("label_agreement_lost", MODEL, changed(lambda r, s, g: g.gauss(0.5, 1.1)), Severity.CRITICAL),
    ("reordered", MODEL, lambda s, g: replace(s, reward=max(-0.2, min(0.2, s.reward or 0))), Severity.WARNING),
    ("unstable", MODEL, lambda s, g: replace(s, reward=(s.reward or 0) + 2 * ((s.step or 0) % 2)), Severity.WARNING),
]  # fmt: skip
