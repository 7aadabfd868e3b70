"""Metrics that drift together are told, each too little to matter; one of them alone is not."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.adaptive import Adaptive
from rlhfd_daemon.analyzers.dispatch import Dispatch
from rlhfd_daemon.analyzers.joint import PATTERNS, RULES, Joint
from rlhfd_daemon.analyzers.profiles import profile_of
from rlhfd_daemon.config import AdaptiveConfig
from rlhfd_daemon.metrics import find
from rlhfd_daemon.sample import Sample

REWARD, KL, LENGTH = "train/reward", "train/kl", "train/rollout/response_length_mean"
ONSET = 120
Course = Callable[[float], dict[str, float]]


def told(course: Course, steps: int = 200, seed: int = 0) -> list[Finding]:
    """What Joint says of a run of quiet metrics, to which ``course`` is added after the onset; its argument goes from
    0 at the onset to 1 forty steps later, and stays there."""
    draw = random.Random(seed)
    adaptive = Adaptive(AdaptiveConfig())
    dispatch = Dispatch((adaptive, Joint(adaptive)))
    found: list[Finding] = []
    for step in range(1, steps + 1):
        values = {REWARD: 0.5 + 0.001 * min(step, 100), KL: 0.1, LENGTH: 400.0, "train/entropy_loss": 0.6}
        for name, factor in course(min(max(0, step - ONSET) / 40, 1.0)).items():
            values[name] *= factor
        frame = [
            Sample("r", "b", "trainer", 0, step, name, value * (1 + 0.03 * draw.gauss(0, 1)), float(step), step)
            for name, value in values.items()
        ]
        found += dispatch.observe(frame)
    return [one for one in found if one.rule in RULES]


def hacking(of: float) -> dict[str, float]:
    return {REWARD: 1 + 0.5 * of, KL: 1 + 1.5 * of, LENGTH: 1 + 0.4 * of}


@pytest.mark.parametrize("seed", range(5))
def test_reward_kl_and_length_that_rise_together_are_hacking(seed: int) -> None:
    begun = [one for one in told(hacking, seed=seed) if one.active]
    assert [(one.rule, one.family, one.metric, one.severity) for one in begun] == [
        ("hacking_drift", "hacking", REWARD, Severity.WARNING)
    ]
    assert ONSET < (begun[0].onset_step or 0) <= (begun[0].step or 0) <= ONSET + 40


@pytest.mark.parametrize("left_out", [REWARD, KL, LENGTH])
def test_two_of_the_three_are_not(left_out: str) -> None:
    def part(of: float) -> dict[str, float]:
        return {name: factor for name, factor in hacking(of).items() if name != left_out}

    assert told(part) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_quiet_run_is_none_of_the_patterns(seed: int) -> None:
    assert told(lambda _: {}, 400, seed) == []


def test_it_ends_when_the_new_level_is_the_course() -> None:
    assert [one.active for one in told(hacking, 400)] == [True, False]


def test_a_rising_kl_with_a_falling_reward_is_told() -> None:
    found = told(lambda of: {KL: 1 + 3 * of, REWARD: 1 - 0.5 * of})
    assert [one.rule for one in found if one.active] == ["kl_without_reward"]


def test_entropy_and_length_that_rise_together_are_told() -> None:
    found = told(lambda of: {"train/entropy_loss": 1 + of, LENGTH: 1 + of})
    assert [one.rule for one in found if one.active] == ["entropy_and_length"]


def test_the_patterns_read_metrics_of_the_table_that_are_watched_and_have_a_remedy() -> None:
    for pattern in PATTERNS:
        assert "--" in pattern.remedy
        for part in pattern.parts:
            assert all(find(metric) is not None and profile_of(metric) is not None for metric in part.metrics)
