"""What the emitter sums up of a step, joined by the daemon, is what the single samples give."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarding import SCORERS, STEPS, run
from rlhfd_daemon.rewards.advantages import fit_advantages
from rlhfd_daemon.rewards.correlation import within
from rlhfd_daemon.rewards.groups import grouped
from rlhfd_daemon.rewards.judge_relations import related as of_samples
from rlhfd_daemon.rewards.sample import Sample
from rlhfd_daemon.rewards.scoring import consistency, step_mean
from rlhfd_daemon.rewards.summary import MAX_EXPANDED, StepSummary, advantage_fit, expanded, read, related
from rlhfd_emitter.signals.reward_summary import LEVELS, distribution, summed

RELATIVE = 1e-9


def by_step(samples: Iterable[Sample]) -> list[list[Sample]]:
    return [list(step) for _, step in groupby(samples, key=lambda one: one.step)]


def table(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    names = ("reward", "length", "repetition", "kl", "advantage")
    found = {name: [getattr(one, name) for one in samples] for name in names}
    return {**found, "prompt_id": [one.prompt for one in samples], "response_id": [one.response for one in samples]}


def summaries(samples: Iterable[Sample], estimator: str = "dr_grpo", with_kl: bool = False) -> list[StepSummary]:
    found = []
    for step in by_step(samples):
        told = read({"samples": len(step), "missing": 0, **summed(table(step), estimator, with_kl)})
        assert told is not None
        found.append(told)
    return found


def noisy(samples: Iterable[Sample], seed: int = 0) -> list[Sample]:
    """With KL, and rewards that go with repetition."""
    rng = random.Random(seed)
    return [
        replace(one, kl=rng.gauss(0.1, 0.05), reward=(one.reward or 0.0) + 2 * (one.repetition or 0.0))
        for one in samples
    ]


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda one: one.name)
@pytest.mark.parametrize("name", ["length", "repetition", "kl"])
def test_correlations_are_those_of_the_samples(scorer: Any, name: str) -> None:
    samples = noisy(run(scorer, seed=3))[:1024]
    told, exact = related(summaries(samples), name), of_samples(samples, name)
    assert told is not None
    assert exact is not None
    assert told[1] == exact[1] == "prompt"
    for side in ("r", "low", "high", "slope"):
        # The slope is of the other on the reward there, and of the reward on the other here.
        if side != "slope":
            assert getattr(told[0], side) == pytest.approx(getattr(exact[0], side), rel=RELATIVE, abs=RELATIVE)
    assert (told[0].count, told[0].degrees) == (exact[0].count, exact[0].degrees)


def test_without_groups_the_steps_are_the_strata() -> None:
    samples = [replace(one, prompt=None) for one in noisy(run(SCORERS[1], seed=4))[:1024]]
    steps = []
    for step in by_step(samples):
        columns = {key: column for key, column in table(step).items() if key != "prompt_id"}
        found = read({"samples": len(step), **summed(columns, "gae", False)})
        assert found is not None
        steps.append(found)
    told = related(steps, "repetition")
    assert told is not None
    exact = within(
        [one.repetition or 0.0 for one in samples],
        [one.reward or 0.0 for one in samples],
        [one.step for one in samples],
    )
    assert exact is not None
    assert told[0].r == pytest.approx(exact.r, rel=RELATIVE)
    assert told[1] == "step"


@pytest.mark.parametrize("estimator", ["dr_grpo", "rloo", "group_norm"])
@pytest.mark.parametrize("with_kl", [False, True])
def test_advantages_are_judged_as_from_the_samples(estimator: str, with_kl: bool) -> None:
    rng = random.Random(1)
    samples = [
        replace(
            one, kl=kl, advantage=(one.advantage or 0.0) - (0.3 * kl * (one.length or 0.0) / 100 if with_kl else 0.0)
        )
        for one in run(SCORERS[1], seed=5, estimator=estimator)
        for kl in [abs(rng.gauss(0.1, 0.05))]
    ][:1024]
    told = advantage_fit(summaries(samples, estimator, with_kl))
    exact = fit_advantages(
        estimator,
        [one.reward or 0.0 for one in samples],
        [one.advantage or 0.0 for one in samples],
        [one.step for one in samples],
        [one.prompt for one in samples],
        [(one.kl or 0.0) * (one.length or 0.0) for one in samples] if with_kl else None,
    )
    assert told is not None
    assert exact is not None
    assert told.r == pytest.approx(exact.r, rel=RELATIVE)
    assert (told.needed, told.with_kl, told.fault) == (exact.needed, exact.with_kl, exact.fault)
    assert told.correlation.low == pytest.approx(exact.correlation.low, rel=RELATIVE)


@pytest.mark.parametrize("estimator", ["dr_grpo", "group_norm"])
def test_advantages_of_the_wrong_sign_are_seen(estimator: str) -> None:
    samples = [replace(one, advantage=-(one.advantage or 0.0)) for one in run(SCORERS[0], 6, estimator=estimator)][
        :1024
    ]
    fit = advantage_fit(summaries(samples[:1024], estimator))
    assert fit is not None
    assert fit.fault == "reversed"


def test_copies_and_means_are_those_of_the_samples() -> None:
    samples = list(run(SCORERS[0], seed=7))[:512]
    again = [replace(one, reward=(one.reward or 0.0) + 0.5 * (place % 2)) for place, one in enumerate(samples[:64])]
    step = [replace(one, step=0) for one in samples + again]
    (found,) = summaries(step)
    by_prompt = list(grouped([one.prompt for one in step], [one.reward or 0.0 for one in step]).values())
    mean = step_mean(by_prompt)
    assert mean is not None
    assert found.step_mean == pytest.approx([mean.mean, mean.variance, mean.degrees], rel=RELATIVE)
    twice = consistency([(one.prompt, one.response) for one in step], [one.reward or 0.0 for one in step])
    assert twice is not None
    assert found.copies[:3] == pytest.approx([twice.repeated, twice.differing, twice.largest])
    assert (twice.repeated, twice.differing) == (64, 32)
    assert found.copies[3] == pytest.approx(32 * 0.5**2 / 2)


@given(st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, -0.5]), min_size=1, max_size=3000))
def test_the_distribution_is_within_its_error(values: list[float]) -> None:
    levels, counts = distribution(values)
    assert sum(counts) == len(values)
    assert len(levels) <= LEVELS
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (min(values), max(values))
    ranked = sorted(values)
    reached = 0
    for level, count in zip(levels, counts, strict=True):
        reached += count
        off = bisect_right(ranked, level) - reached
        assert off >= -math.ceil(len(values) / LEVELS)
    if len(set(values)) <= LEVELS:
        assert dict(zip(levels, counts, strict=True)) == {value: values.count(value) for value in set(values)}


@given(st.lists(st.floats(-10, 10).map(lambda one: round(one, 3)), min_size=1, max_size=4000))
def test_what_a_step_is_expanded_to_has_its_distribution(values: list[float]) -> None:
    levels, counts = distribution(values)
    rewards = [one.reward for one in expanded(StepSummary(samples=len(values), values=levels, counts=counts), 3)]
    assert len(rewards) == min(len(values), MAX_EXPANDED)
    reached = 0
    for level, count in zip(levels, counts, strict=True):
        reached += count
        share = sum(one is not None and one <= level for one in rewards) / len(rewards)
        assert share == pytest.approx(reached / len(values), abs=1 / len(rewards))


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"samples": -1},
        {"samples": "many"},
        {"samples": 2, "values": [1.0], "counts": []},
        {"samples": 2, "values": [1.0, 0.0], "counts": [1, 1]},
        {"samples": 2, "values": [math.nan], "counts": [1]},
        {"samples": 2, "length": [[1.0]]},
        {"samples": 2, "length": [[1.0, 2.0, math.inf, 3.0, 4.0]]},
        {"samples": 2, "copies": [1.0] * 6},
        {"samples": 2, "clip": [1.0]},
        {"samples": 2, "estimator": 7},
    ],
)
def test_what_is_no_summary_is_left_alone(broken: dict[str, Any]) -> None:
    assert read(broken) is None


def test_all_steps_of_a_run_are_read() -> None:
    assert len(summaries(run(SCORERS[2], seed=1))) == STEPS
