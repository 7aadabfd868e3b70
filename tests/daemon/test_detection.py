"""Promises about detection, on labelled runs: faults are found soon and under their name, healthy runs stay silent."""

from __future__ import annotations

import math
from functools import cache

import pytest

from detecting.logs import labelled
from detecting.measure import Measured, heard, measured
from detecting.scoring import GENERATED_FAULTS, Verdict

# The most steps from the onset to the first alert of real runs: abrupt faults, and those that build up.
ABRUPT, GRADUAL = 5, 20
MEDIAN, P90 = 10, 25  # steps, of generated runs
PER_1000 = 0.5  # false episodes of generated runs in clean steps
PER_LONG_RUN = 1  # false episodes in 1,500 clean steps or more
BEFORE_REAL_FAULTS = 0
CHANCE = 0.02
EPISODES = 1.5  # of one fault
REAL = {
    "lr_too_high": GRADUAL,
    "lr_spike_at_60": ABRUPT,
    "kl0_hack_repeat": GRADUAL,
    "kl_tiny_hack_length": GRADUAL,
    "reward_nan_at_61": ABRUPT,
    "reward_noise_at_61": ABRUPT,
    "reward_const_at_61": ABRUPT,
    "slow_gen_at_60": ABRUPT,
    "drop_sync_at_60": ABRUPT,
}


@cache
def group(name: str) -> Measured:
    (one,) = measured(heard([log for log in labelled() if log.label.group == name]))
    return one


def scored(name: str) -> list[Verdict]:
    return [one for one in group(name).verdicts if one.label.is_scored]


def test_there_are_as_many_labelled_runs_as_the_promises_speak_of() -> None:
    runs = {
        name: (len(group(name).verdicts), len(scored(name))) for name in ("generated", "scaled", "long", "openrlhf")
    }
    assert runs == {"generated": (70, 60), "scaled": (16, 12), "long": (16, 12), "openrlhf": (21, 9)}


@pytest.mark.parametrize(("name", "least"), [("generated", 57), ("scaled", 11), ("long", 11)])
def test_faults_are_found_and_named_whatever_the_units_and_the_length_of_the_run(name: str, least: int) -> None:
    found = [one for one in scored(name) if one.named]
    assert len(found) >= least
    assert name != "generated" or {one.label.fault for one in found} == set(GENERATED_FAULTS)


@pytest.mark.parametrize("name", ["generated", "scaled", "long"])
def test_half_of_the_faults_are_found_within_ten_steps_whatever_the_units_and_the_onset(name: str) -> None:
    assert group(name).whole.median_delay.value <= MEDIAN
    assert group(name).whole.p90_delay.value <= P90


@pytest.mark.parametrize("name", ["generated", "scaled", "long"])
def test_clean_steps_give_hardly_a_false_episode(name: str) -> None:
    assert group(name).whole.clean_steps > 0
    assert group(name).whole.false_per_1000.value <= PER_1000
    assert max(one.false_episodes for one in group(name).verdicts) <= PER_LONG_RUN


@pytest.mark.parametrize("name", ["generated", "scaled"])
def test_hardly_anything_is_found_by_chance(name: str) -> None:
    assert group(name).chance <= CHANCE


def test_a_fault_is_one_episode_or_little_more() -> None:
    assert group("generated").whole.episodes_per_fault <= EPISODES


@pytest.mark.parametrize("run", REAL)
def test_faults_of_real_runs_are_found_soon_and_under_their_name(run: str) -> None:
    (verdict,) = (one for one in scored("openrlhf") if one.label.name == run)
    assert (math.inf if verdict.delay is None else verdict.delay) <= REAL[run]
    assert verdict.named


def test_healthy_real_runs_of_every_trainer_give_neither_warning_nor_critical() -> None:
    healthy = [one for one in group("openrlhf").verdicts if one.label.fault is None]
    assert len(healthy) == 11
    assert {one.label.name: one.false_episodes for one in healthy if one.false_episodes} == {}


def test_real_runs_are_silent_until_their_fault_begins() -> None:
    faulty = [one for one in group("openrlhf").verdicts if one.label.fault is not None]
    assert sum(one.false_episodes for one in faulty) <= BEFORE_REAL_FAULTS
