"""One series against its own past: what is a change, what is none, when it is over, and that nothing blinds it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from statistics import median

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlhfd_daemon.analyzers.changes import Change
from rlhfd_daemon.analyzers.profiles import WARNING, Profile
from rlhfd_daemon.analyzers.track import Track

LOG = Profile(("x",), up=1.5, down=1.5, log=True)
RATIO = Profile(("x",), up=2.0, down=2.0)
SHIFT = Profile(("x",), "shift", up=0.1, down=0.1, floor=0.01)
RANGE = Profile(("x",), "range", up=0.35, down=0.35)
SPIKY = Profile(("x",), up=3.0, down=5.0, log=True, spikes=True)
SOON = 12  # values within which a change far beyond the noise is found
Found = list[tuple[int, Change]]


def changes(values: Iterable[float], profile: Profile = LOG) -> Found:
    """(index, change)"""
    track = Track(profile)
    found = [(index, track.take(value)) for index, value in enumerate(values)]
    return [(index, change) for index, change in found if change is not None]


def begun(found: Found) -> list[tuple[str, str]]:
    """(kind, side) of what began, in order."""
    return [(change.kind, "up" if change.is_up else "down") for _, change in found if change.is_active]


def noise(count: int, level: float = 1.0, spread: float = 0.05, seed: int = 1) -> list[float]:
    source = random.Random(seed)
    return [source.gauss(level, spread) for _ in range(count)]


def shaped(shape: Callable[[int], float], count: int, relative: float = 0.03, seed: int = 2) -> list[float]:
    source = random.Random(seed)
    return [shape(index) * (1 + source.gauss(0, relative)) for index in range(count)]


@pytest.mark.parametrize("profile", [LOG, RATIO, SHIFT, RANGE], ids=["log", "ratio", "shift", "range"])
@pytest.mark.parametrize(("level", "side"), [(4.0, "up"), (0.2, "down")])
@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_found_soon_and_dated_to_its_first_value(
    profile: Profile, level: float, side: str, seed: int
) -> None:
    found = changes([*noise(60, seed=seed), *noise(20, level, 0.02, seed=seed + 50)], profile)
    assert begun(found) == [("level_change", side)]
    index, change = found[0]
    assert 60 < index < 60 + SOON
    assert index - change.since in (59, 60)  # the last value before it may have happened to lie on the same side
    assert change.expected == pytest.approx(1.0, abs=0.15)
    assert change.recent == pytest.approx(level, abs=0.1)
    assert 0 < change.scale < 0.3


def test_most_steps_are_dated_exactly() -> None:
    since = [
        index - change.since
        for seed in range(40)
        for index, change in changes([*noise(60, seed=seed), *noise(10, 4.0, seed=seed + 100)])
    ]
    assert len(since) == 40
    assert since.count(60) >= 30


@pytest.mark.parametrize("profile", [LOG, RATIO, SHIFT, RANGE, SPIKY], ids=["log", "ratio", "shift", "range", "spiky"])
@pytest.mark.parametrize("wild", [[50.0], [50.0, 60.0], [1e300], [-50.0], [0.0]])
def test_one_or_two_wild_values_are_no_change(profile: Profile, wild: list[float]) -> None:
    assert changes([*noise(60), *wild, *noise(40, seed=3), *wild, *noise(40, seed=4)], profile) == []


def test_a_norm_that_spikes_again_and_again_is_told_once_and_is_over_when_it_no_longer_does() -> None:
    values = noise(200)
    for index in (60, 66, 72, 80, 91):
        values[index] = 30.0
    found = changes(values, SPIKY)
    assert begun(found) == [("spikes", "up")]
    (start, change), (end, _) = found
    assert (start, start - change.since) == (72, 60)
    assert 91 < end < 160


def test_spikes_that_are_far_apart_are_of_a_healthy_run() -> None:
    values = noise(600)
    for index in range(60, 600, 50):
        values[index] = 30.0
    assert changes(values, SPIKY) == []
    values[70] = values[80] = 30.0
    assert begun(changes(values, SPIKY)) == [("spikes", "up")]


SLOW: dict[str, tuple[Callable[[int], float], Profile]] = {
    "exponential decay": (lambda at: 0.5 + 2 * math.exp(-at / 120), Profile(("x",), up=1.5, log=True)),
    "1/t": (lambda at: 10 / (at + 5), Profile(("x",), up=1.5, log=True)),
    "learning": (lambda at: 3 - 2 * math.exp(-at / 150), Profile(("x",), "range", down=0.35)),
    "linear growth from 0": (lambda at: 0.01 * at, Profile(("x",), down=1.5, log=True)),
    "linear growth, KL": (lambda at: 0.0005 * at, Profile(("x",), up=2.0, least=0.05, floor=0.005, log=True)),
    "square root": (lambda at: 0.02 * math.sqrt(at), Profile(("x",), "range", down=0.35)),
    "loss that falls": (lambda at: 0.4 + 3 * math.exp(-at / 60), Profile(("x",), "range", up=0.3)),
    "level": (lambda at: 1.0, LOG),
}


@pytest.mark.parametrize("shape", SLOW)
@pytest.mark.parametrize("seed", range(6))
def test_slow_healthy_courses_are_silent(shape: str, seed: int) -> None:
    course, profile = SLOW[shape]
    assert changes(shaped(course, 800, seed=seed), profile) == []


@pytest.mark.parametrize("profile", [RANGE, Profile(("x",), down=1.5, log=True)], ids=["range", "log"])
def test_a_rise_that_comes_to_rest_is_no_fall(profile: Profile) -> None:
    for seed in range(6):
        found = changes(shaped(lambda at: 1 + 0.03 * min(at, 100), 300, seed=seed), profile)
        assert [side for _, side in begun(found) if side == "down"] == []


@pytest.mark.parametrize("seed", range(4))
def test_a_change_that_creeps_is_found(seed: int) -> None:
    """So slow that no value lies far from the line through those before it."""
    source = random.Random(seed)
    values = [*noise(80, seed=seed), *(1.02**at * (1 + source.gauss(0, 0.05)) for at in range(100))]
    index, change = changes(values)[0]
    assert change.kind in ("trend_change", "level_change")
    assert change.is_up
    assert 85 < index < 130
    assert 75 < index - change.since < 110


@pytest.mark.parametrize("seed", range(4))
def test_a_change_that_goes_on_is_a_trend(seed: int) -> None:
    source = random.Random(seed)
    values = [*noise(80, seed=seed), *(1 + 0.06 * at + source.gauss(0, 0.05) for at in range(100))]
    assert begun(changes(values, Profile(("x",), up=2.0)))[0] == ("trend_change", "up")


def test_a_change_too_small_to_matter_is_silent_and_becomes_the_course() -> None:
    values = [*noise(60, spread=0.01), *noise(80, 1.2, 0.01, seed=2)]
    assert changes(values) == []
    found = changes([*values, *noise(20, 2.4, 0.01, seed=3)])
    assert begun(found) == [("level_change", "up")]
    assert found[0][1].expected == pytest.approx(1.2, abs=0.03)


def test_an_alert_is_over_after_a_few_calm_values_on_the_old_course() -> None:
    values = [*noise(60), *noise(10, 4.0, seed=2), *[1.0] * 2, *noise(3, 4.0, seed=4), *noise(30, 1.0, 0.02, seed=5)]
    found = changes(values)
    assert [change.is_active for _, change in found] == [True, False]
    end, change = found[1]
    assert end >= 60 + 10 + 2 + 3 + 4  # two calm values alone did not end it
    assert end <= 60 + 10 + 2 + 3 + 8
    assert not change.new_level
    assert (change.kind, change.is_up) == ("level_change", True)


@pytest.mark.parametrize("profile", [LOG, RANGE, SPIKY], ids=["log", "range", "spiky"])
@pytest.mark.parametrize("level", [4.0, 40.0])
def test_a_level_that_stays_is_accepted_and_left_again(profile: Profile, level: float) -> None:
    values = [*noise(60), *noise(100, level, level / 20, seed=2), *noise(20, 6 * level, level / 20, seed=3)]
    found = changes(values, profile)
    assert [change.is_active for _, change in found] == [True, False, True]
    assert 90 < found[1][0] < 160
    assert found[1][1].new_level
    assert 160 < found[2][0] < 160 + SOON
    assert found[2][1].expected == pytest.approx(level, rel=0.2)


@pytest.mark.parametrize("profile", [LOG, RATIO, RANGE], ids=["log", "ratio", "range"])
@pytest.mark.parametrize("after", [5, 20, 40])
def test_a_change_to_the_other_side_takes_the_place_of_the_first(profile: Profile, after: int) -> None:
    values = [*noise(60), *noise(after, 4.0, seed=2), *noise(20, 0.2, 0.02, seed=3)]
    found = changes(values, profile)
    assert begun(found) == [("level_change", "up"), ("level_change", "down")]
    assert 60 + after < found[-1][0] < 60 + after + SOON


@pytest.mark.parametrize("seed", range(6))
def test_a_step_within_a_steady_rise_is_told_from_it(seed: int) -> None:
    source = random.Random(seed)
    values = [0.03 * at + (6.0 if at >= 100 else 0.0) + source.gauss(0, 0.05) for at in range(115)]
    found = changes(values, RANGE)
    assert begun(found) == [("level_change", "up")]
    index, change = found[0]
    assert 98 <= index - change.since <= 100
    assert change.expected == pytest.approx(0.03 * index, rel=0.15)


@pytest.mark.parametrize("profile", [LOG, RATIO], ids=["log", "ratio"])
def test_values_that_scatter_far_more_are_a_change_of_spread_not_of_level(profile: Profile) -> None:
    """Not always found: a scatter that the window takes in before it is certain is the usual one from then on."""
    kinds = [
        kind
        for seed in range(40)
        for kind, _ in begun(changes([*noise(80, 10.0, 0.1, seed), *noise(60, 10.0, 1.0, seed + 90)], profile))
    ]
    assert set(kinds) == {"spread_change"}
    assert len(kinds) >= 5


@pytest.mark.parametrize("profile", [LOG, SPIKY], ids=["log", "spiky"])
def test_a_step_is_found_as_soon_after_many_values_as_after_few(profile: Profile) -> None:
    delays = {}
    for onset in (150, 1_500, 15_000):
        tail = [*noise(90, seed=7), *noise(30, 1.8, seed=8)] if profile is LOG else [*noise(90), *noise(30, 4.0)]
        found = changes([*noise(onset - 90, seed=6), *tail], profile)
        assert len(begun(found)) == 1
        delays[onset] = found[0][0] - onset
    assert max(delays.values()) - min(delays.values()) <= 3
    assert max(delays.values()) < SOON


@pytest.mark.parametrize("seed", range(6))
def test_the_unit_of_a_metric_makes_no_difference(seed: int) -> None:
    values = [*noise(90, seed=seed), *noise(30, 2.5, seed=seed + 30), *noise(40, seed=seed + 60)]

    def outcome(values: list[float], profile: Profile) -> list[tuple[int, str, bool, int]]:
        return [(index, change.kind, change.is_up, change.since) for index, change in changes(values, profile)]

    assert len(outcome(values, LOG)) >= 2
    assert outcome([3 * value for value in values], LOG) == outcome(values, LOG)
    assert outcome([1e6 * value for value in values], LOG) == outcome(values, LOG)
    low = [
        value - 1.0 for value in values
    ]  # its least standard deviation, a share of the level, is far below the noise
    assert len(outcome(low, RANGE)) >= 2
    assert outcome([10 * value + 3 for value in low], RANGE) == outcome(low, RANGE)


def test_a_change_of_unit_is_told_and_then_learnt() -> None:
    """As when a value that was a share becomes a percentage, and the other way round."""
    for profile in (LOG, RATIO, RANGE):
        percent = [100 * value for value in noise(150, seed=2)]
        values = [*noise(60), *percent, *noise(150, seed=3), *noise(20, 3.0, seed=4)]
        found = changes(values, profile)
        assert begun(found) == [("level_change", "up"), ("level_change", "down"), ("level_change", "up")], profile
        assert 360 < found[-1][0] < 360 + SOON


def test_a_metric_that_is_usually_0_may_be_its_usual_self_and_is_still_watched() -> None:
    source = random.Random(5)
    usual = [source.uniform(0.001, 0.004) if source.random() < 0.2 else 0.0 for _ in range(400)]
    assert changes(usual, SHIFT) == []
    found = changes([*usual, *[0.5] * 10], SHIFT)
    assert begun(found) == [("level_change", "up")]
    assert found[0][0] < 400 + SOON


def test_the_past_is_not_judged_by_what_comes_after() -> None:
    values = [*noise(60), *noise(15, 5.0), *noise(20), *noise(15, 0.1)]
    whole = changes(values)
    assert len(whole) == 3
    for length in range(0, len(values), 7):
        assert changes(values[:length]) == [(index, change) for index, change in whole if index < length]


GARBAGE = st.one_of(
    st.sampled_from([0.0, -0.0, 1e300, -1e300, 1.7e308, -1.7e308, 5e-324, -5e-324, 1e-310, 1e100, -1e100, 1.0]),
    st.floats(-100, 100),
)
PATTERNS = st.one_of(
    st.lists(GARBAGE, min_size=200, max_size=200),
    st.lists(GARBAGE, min_size=1, max_size=4).map(lambda few: (few * 200)[:200]),  # constants, alternating
    st.tuples(GARBAGE, GARBAGE, st.integers(1, 199)).map(lambda two: [two[0]] * two[2] + [two[1]] * (200 - two[2])),
)
PROFILES = {"log": LOG, "ratio": RATIO, "shift": SHIFT, "range": RANGE, "spiky": SPIKY}
STEP = {"log": 4.0, "ratio": 4.0, "shift": 4.0, "range": 300.0, "spiky": 4.0}


@pytest.mark.parametrize("name", PROFILES)
@settings(max_examples=80, deadline=None)
@given(PATTERNS)
@example([1e300] * 200)
@example([1e300, -1e300] * 100)
@example([5e-324] * 200)
@example([0.0] * 200)
@example([1e300] * 6 + [1.0] * 194)
def test_whatever_came_before_a_step_after_quiet_values_is_found(name: str, garbage: list[float]) -> None:
    track = Track(PROFILES[name])
    for value in [*garbage, *noise(120, seed=11)]:
        track.take(value)
        assert_bounded(track)
    found = [change for change in map(track.take, noise(30, STEP[name], seed=12)) if change is not None]
    assert any(change.is_active and change.is_up for change in found)


def assert_bounded(track: Track) -> None:
    assert len(track._values) <= 150
    assert len(track._suspects) <= 100
    assert len(track._lines) <= 10
    assert len(track._spikes) <= 40


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_memory_does_not_grow_with_the_series(profile: Profile) -> None:
    source = random.Random(3)
    patient = profile._replace(patience=8.0, severity_up=WARNING)
    for one in (profile, patient):
        track = Track(one)
        level, most = 1.0, 0
        for index in range(6000):
            if index % 170 == 0:
                level = 10 ** source.uniform(-2, 3)
            track.take(level * source.lognormvariate(0, 0.1) * (30 if source.random() < 0.02 else 1))
            lists = (track._values, track._suspects, track._lines, track._spikes)
            most = max(most, sum(len(one) for one in lists))
        assert most < 500


def test_equal_values_for_a_long_time_do_not_blind() -> None:
    for profile in (LOG, RATIO, SHIFT, RANGE):
        found = changes([*[0.5] * 300, *[2.0] * 10], profile)
        assert begun(found) == [("level_change", "up")]


def test_delays_are_a_few_values_for_a_change_of_several_standard_deviations() -> None:
    delays = []
    for seed in range(30):
        found = changes([*noise(100, seed=seed), *noise(40, 1.6, seed=seed + 100)])
        delays.append(next(index for index, change in found if change.is_active) - 100)
    assert min(delays) > 0
    assert median(delays) < SOON
