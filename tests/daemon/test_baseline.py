"""The resistant line: exact where values are, unmoved by a few wild ones, wider where values follow each other."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_daemon.analyzers.baseline import fit, middle, rise

WINDOW = 40


def noise(seed: int, count: int = WINDOW, correlation: float = 0.0) -> list[float]:
    """Standard deviation 1; each value keeps ``correlation`` of the one before."""
    source = random.Random(seed)
    values = [source.gauss(0, 1)]
    for _ in range(count - 1):
        values.append(correlation * values[-1] + (1 - correlation**2) ** 0.5 * source.gauss(0, 1))
    return values


@pytest.mark.parametrize("count", [6, 7, 12, 13, 39, 40])
@pytest.mark.parametrize("slope", [0.0, 0.5, -2.0])
def test_the_line_through_values_on_a_line_is_that_line_without_scatter(count: int, slope: float) -> None:
    line = fit([3.0 + slope * index for index in range(count)])
    assert line.slope == pytest.approx(slope)
    assert line.level == pytest.approx(3.0 + slope * (count - 1))
    assert line.scale == pytest.approx(0.0, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 35), st.floats(-1e6, 1e6)), max_size=6))
def test_a_sixth_of_the_values_may_be_anything(wild: list[tuple[int, float]]) -> None:
    values = [10.0 + 0.5 * index for index in range(36)]
    for index, value in wild:
        values[index] = value
    line = fit(values)
    assert line.level == pytest.approx(10.0 + 0.5 * 35, abs=6 * 0.5)
    assert line.slope == pytest.approx(0.5, abs=0.3)


def test_one_wild_value_on_each_side_does_not_widen_the_scale_much() -> None:
    values = noise(1)
    usual = fit(values).scale
    values[7], values[29] = 1e9, -1e9
    assert fit(values).scale < 2 * usual


def test_the_scale_is_the_standard_deviation_of_independent_values() -> None:
    mean = fmean(fit([5.0 + 0.1 * at + 0.3 * one for at, one in enumerate(noise(seed))]).scale for seed in range(300))
    assert mean == pytest.approx(0.3, rel=0.3)


def test_values_that_follow_those_before_have_a_larger_scale() -> None:
    alone, following = (fmean(fit(noise(seed, correlation=r)).scale for seed in range(200)) for r in (0.0, 0.7))
    assert following > 1.4 * alone


def test_a_ratio_that_is_usually_0_has_a_scale_by_the_values_that_are_not() -> None:
    source = random.Random(4)
    values = [source.uniform(0.1, 0.3) if source.random() < 0.3 else 0.0 for _ in range(WINDOW)]
    assert sorted(values)[WINDOW * 3 // 5] == 0.0
    assert fit(values).scale > 0.05


@given(st.lists(st.floats(-1e100, 1e100), min_size=6, max_size=60))
def test_any_values_have_a_line_with_a_scale_that_is_not_negative(values: list[float]) -> None:
    line = fit(values)
    assert line.scale >= 0
    assert all(abs(one) < 1e103 for one in line)


@given(st.lists(st.floats(-100, 100), min_size=6, max_size=40), st.sampled_from([3.0, 0.25]), st.integers(-50, 50))
def test_the_line_follows_a_change_of_unit(values: list[float], factor: float, shift: int) -> None:
    line, moved = fit(values), fit([factor * value + shift for value in values])
    assert moved.level == pytest.approx(factor * line.level + shift, abs=1e-6)
    assert moved.slope == pytest.approx(factor * line.slope, abs=1e-6)


def test_the_middle_of_an_even_count_is_the_upper_one() -> None:
    assert [middle([5.0]), middle([2.0, 1.0]), middle([3.0, 1.0, 2.0]), middle([4.0, 1.0, 3.0, 2.0])] == [5, 2, 2, 3]


def test_a_rise_is_that_of_the_second_half_over_the_first() -> None:
    assert rise([1.0, 1.0, 1.0, 4.0, 4.0, 99.0]) == 3.0
    assert rise([2.0, 2.0, 2.0, 2.0]) == 0.0
    assert rise([5.0, 3.0]) == -2.0
