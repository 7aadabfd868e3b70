"""Quantiles of a stream: within the stated error of the exact ones, in bounded memory, whatever comes."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_daemon.rewards.quantiles import Quantiles

VALUES = st.lists(
    st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-1e6, 1e6), st.integers(-3, 3).map(float)),
    min_size=1,
    max_size=600,
)
SHARES = [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0]


def taken(values: list[float], error: float) -> Quantiles:
    found = Quantiles(error)
    for value in values:
        found.add(value)
    return found


def check(values: list[float], error: float) -> None:
    found, ordered, count = taken(values, error), sorted(values), len(values)
    for share in SHARES:
        answer = found.quantile(share)
        assert answer is not None
        rank = min(max(1, math.ceil(share * count)), count)
        least, most = bisect_left(ordered, answer) + 1, bisect_right(ordered, answer)
        assert least <= most, "not one of the values"
        assert least - error * count <= rank <= most + error * count
    for value in (ordered[0] - 1, ordered[0], ordered[count // 2], ordered[-1], ordered[-1] + 1):
        below = found.share_up_to(value)
        assert below is not None
        assert abs(below - bisect_right(ordered, value) / count) <= error + 1e-12


@given(VALUES, st.sampled_from([0.005, 0.02, 0.1, 0.3]))
def test_ranks_are_within_the_error(values: list[float], error: float) -> None:
    check(values, error)


@pytest.mark.parametrize("order", ["random", "rising", "falling", "zigzag"])
def test_many_values_stay_within_the_error_in_little_memory(order: str) -> None:
    rng = random.Random(5)
    values = [rng.lognormvariate(0, 2) for _ in range(30_000)]
    if order != "random":
        values.sort(reverse=order == "falling")
    if order == "zigzag":
        values[1::2] = reversed(values[1::2])
    check(values, 0.01)
    assert taken(values, 0.01).size < 900


def test_the_extremes_are_exact() -> None:
    found = taken([float(at) for at in range(5000)], 0.01)
    assert (found.share_up_to(-1), found.share_up_to(5000)) == (0, 1)
    assert found.quantile(0.0) is not None


def test_there_are_none_of_nothing() -> None:
    assert (Quantiles().quantile(0.5), Quantiles().share_up_to(0)) == (None, None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Quantiles().add(value)


@pytest.mark.parametrize("error", [0.0, 0.5, -1.0])
def test_a_useless_error_is_refused(error: float) -> None:
    with pytest.raises(ValueError, match=r"between 0 and 0\.5"):
        Quantiles(error)
