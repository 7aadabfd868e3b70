"""The scorer of the detection benchmark: what counts as found, late, false or misnamed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detecting.scoring import ACCEPTED, GENERATED_FAULTS, Alarm, Label, alarms, apart, chance, judge
from detecting.summary import interval, quantile, summary
from rlhfd_daemon.analyzers.families import FAMILIES

FAULTY = Label("run", "group", 300, "kl_explosion", 151)
HEALTHY = Label("run", "group", 300)


def alarm(step: int, family: str = "kl", episode: str = "a") -> Alarm:
    return Alarm(step, episode, family, "rule", "metric", "warning")


def line(**other: Any) -> dict[str, Any]:
    whole = {"kind": "alert", "state": "firing", "step": 160, "rule": "level_change", "family": "kl"}
    return {**whole, "severity": "warning", "metric": "train/kl", "episode": "a", **other}


@pytest.mark.parametrize(
    ("steps", "delay"),
    [((151,), 0), ((251,), 100), ((252,), None), ((150,), None), ((200, 170), 19), ((), None)],
)
def test_a_fault_is_found_by_the_first_alarm_from_its_onset_to_a_hundred_steps_later(
    steps: tuple[int, ...], delay: int | None
) -> None:
    verdict = judge(FAULTY, [alarm(step, episode=f"{step}") for step in steps])
    assert (verdict.delay, verdict.false_episodes) == (delay, steps.count(150))


def test_an_alarm_of_an_episode_that_began_before_the_onset_finds_nothing() -> None:
    verdict = judge(FAULTY, [alarm(150), alarm(155), alarm(170, episode="b")])
    assert (verdict.delay, verdict.false_episodes, verdict.fault_episodes) == (19, 1, 1)


def test_alarms_each_apart_are_found_beside_an_older_one() -> None:
    verdict = judge(FAULTY, apart([alarm(150), alarm(155), alarm(170)]))
    assert (verdict.delay, verdict.false_episodes, verdict.fault_episodes) == (4, 1, 2)


@pytest.mark.parametrize(
    ("families", "named_first", "named"),
    [
        (("kl",), True, True),
        (("entropy", "kl"), False, True),
        (("entropy",), False, False),
        (("kl", "entropy"), True, True),
    ],
)
def test_what_is_found_is_named_rightly_by_the_first_alarm_or_by_a_later_one(
    families: Sequence[str], named_first: bool, named: bool
) -> None:
    verdict = judge(FAULTY, [alarm(152 + number, family) for number, family in enumerate(families)])
    assert (verdict.found, verdict.named_first, verdict.named) == (True, named_first, named)


def test_a_right_name_after_the_window_is_too_late() -> None:
    assert not judge(FAULTY, [alarm(152, "entropy"), alarm(252, "kl")]).named


def test_every_episode_of_a_healthy_run_is_false_and_counts_once() -> None:
    assert judge(HEALTHY, [alarm(5), alarm(90), alarm(200, episode="b")]).false_episodes == 2


def test_a_fault_that_is_not_scored_still_has_clean_steps() -> None:
    ended = Label("run", "group", 60, "reward_exception", 61)
    verdict = judge(ended, [alarm(30)])
    assert not ended.is_scored
    assert (verdict.false_episodes, ended.clean_steps) == (1, 60)


@pytest.mark.parametrize("other", [{"state": "resolved"}, {"severity": "info"}])
def test_only_alerts_that_begin_and_are_more_than_information_count(other: dict[str, str]) -> None:
    assert list(alarms([line(), line(**other)])) == [Alarm(160, "a", "kl", "level_change", "train/kl", "warning")]


def test_chance_is_the_share_of_healthy_runs_with_a_rightly_named_alarm_where_a_fault_might_be() -> None:
    runs = [(HEALTHY, [alarm(160, "kl")]), (HEALTHY, [alarm(160, "entropy")]), (HEALTHY, [alarm(20)]), (HEALTHY, [])]
    assert chance(runs, ["kl_explosion"], 151) == 0.25
    assert chance(runs, ["kl_explosion", "nan_loss"], 151) == 0.125
    assert math.isnan(chance([], ["nan_loss"], 151))


def test_every_fault_is_named_by_families_that_there_are() -> None:
    assert set(GENERATED_FAULTS) <= ACCEPTED.keys()
    assert {family for accepted in ACCEPTED.values() for family in accepted} <= set(FAMILIES)


def test_a_summary_counts_faulty_runs_and_clean_steps_of_all() -> None:
    small = Label("run", "group", 300, "kl_explosion", 101, "small")
    verdicts = [
        judge(FAULTY, [alarm(155)]),
        judge(FAULTY, [alarm(10), alarm(161, "entropy", "b")]),
        judge(FAULTY, []),
        judge(small, []),
        judge(HEALTHY, [alarm(7)]),
    ]
    found = summary(verdicts)
    assert (found.found, found.runs, found.misnamed) == (2, 3, 0.5)
    assert (found.recall.value, found.median_delay.value, found.p90_delay.value) == (2 / 3, 7, 10)
    assert (found.false_episodes, found.clean_steps) == (2, 3 * 150 + 100 + 300)
    assert found.false_per_1000.value == pytest.approx(1000 * 2 / 850)


def test_of_no_faulty_run_there_is_no_recall_and_no_delay() -> None:
    found = summary([judge(HEALTHY, [])])
    assert math.isnan(found.recall.value)
    assert math.isnan(found.median_delay.value)
    assert found.false_per_1000.value == 0


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_an_interval_holds_its_value_and_is_the_same_every_time(hits: list[bool]) -> None:
    verdicts = [judge(FAULTY, [alarm(160)] if hit else []) for hit in hits]
    first = summary(verdicts).recall
    assert 0 <= first.low <= first.value <= first.high <= 1
    assert summary(verdicts).recall == first


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_not_exceeded_by_its_share_of_the_values(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


def test_the_interval_of_equal_runs_has_no_width() -> None:
    verdicts = [judge(FAULTY, [alarm(160)])] * 5
    found = interval(verdicts, lambda drawn: float(len(drawn)))
    assert (found.low, found.value, found.high) == (5, 5, 5)
