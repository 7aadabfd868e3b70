"""Correlations against scipy's, merged streams against the whole, and strata that hide what is no correlation."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rlhfd_daemon.rewards.correlation import Comoments, differ, partial, pearson, ranks, spearman, within

PAIRS = st.lists(
    st.tuples(st.integers(-50, 50).map(float), st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-10, 10))),
    min_size=10, max_size=80,
)  # fmt: skip


def varies(values: list[float]) -> bool:
    return float(np.std(values)) > 1e-6


@given(PAIRS)
def test_pearson_is_scipys_with_its_interval(pairs: list[tuple[float, float]]) -> None:
    x, y = [one for one, _ in pairs], [other for _, other in pairs]
    found = pearson(x, y)
    if not varies(x) or not varies(y):
        return
    assert found is not None
    expected = stats.pearsonr(x, y)
    assert found.r == pytest.approx(expected.statistic, abs=1e-9)
    if abs(found.r) < 1 - 1e-9:
        interval = expected.confidence_interval()
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-7)
        assert found.slope == pytest.approx(stats.linregress(x, y).slope, rel=1e-6, abs=1e-9)


@given(PAIRS)
def test_spearman_is_scipys(pairs: list[tuple[float, float]]) -> None:
    x, y = [one for one, _ in pairs], [other for _, other in pairs]
    found = spearman(x, y)
    if varies(x) and varies(y):
        assert found is not None
        assert found.r == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
        assert found.low <= found.r <= found.high
    assert ranks(y) == list(stats.rankdata(y))


@given(PAIRS, st.integers(0, 80))
def test_a_stream_in_two_parts_is_the_whole(pairs: list[tuple[float, float]], cut: int) -> None:
    parts = [Comoments(), Comoments()]
    for at, pair in enumerate(pairs):
        parts[at >= cut].add(*pair)
    parts[0].merge(parts[1])
    x, y = np.array(pairs).T
    exact = [
        len(pairs),
        x.mean(),
        y.mean(),
        x.var() * len(x),
        ((x - x.mean()) * (y - y.mean())).sum(),
        y.var() * len(y),
    ]
    merged = parts[0]
    found = [merged.count, merged.x, merged.y, merged.xx, merged.xy, merged.yy]
    assert found == pytest.approx(exact, rel=1e-9, abs=1e-7)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(11)
    held = 0
    for _ in range(400):
        x = [rng.gauss(0, 1) for _ in range(40)]
        y = [0.6 * one + 0.8 * rng.gauss(0, 1) for one in x]
        found = pearson(x, y)
        assert found is not None
        held += found.low <= 0.6 <= found.high
    assert 0.91 < held / 400 < 0.985


def test_what_only_rises_together_over_the_run_is_no_correlation_within_steps() -> None:
    rng = random.Random(1)
    steps = [at // 20 for at in range(800)]
    x = [step + rng.gauss(0, 1) for step in steps]
    y = [2 * step + rng.gauss(0, 1) for step in steps]
    over_all, inside = pearson(x, y), within(x, y, steps)
    assert over_all is not None
    assert inside is not None
    assert over_all.r > 0.9
    assert abs(inside.r) < 0.15
    assert inside.degrees == 800 - 39


def test_within_is_the_correlation_of_deviations_from_the_stratums_mean() -> None:
    rng = random.Random(2)
    strata = [rng.randrange(9) for _ in range(300)]
    x = [rng.gauss(stratum, 1) for stratum in strata]
    y = [0.5 * one + rng.gauss(-stratum, 1) for one, stratum in zip(x, strata, strict=True)]
    means = {key: [np.mean([v for v, s in zip(values, strata, strict=True) if s == key]) for values in (x, y)]
             for key in set(strata)}  # fmt: skip
    left = [one - means[key][0] for one, key in zip(x, strata, strict=True)]
    right = [one - means[key][1] for one, key in zip(y, strata, strict=True)]
    found = within(x, y, strata)
    assert found is not None
    assert found.r == pytest.approx(stats.pearsonr(left, right).statistic, abs=1e-9)


def test_partial_is_the_correlation_of_residuals() -> None:
    rng = random.Random(3)
    z = [rng.gauss(0, 1) for _ in range(200)]
    x, y = ([one + rng.gauss(0, 1) for one in z] for _ in range(2))

    def residuals(values: list[float]) -> list[float]:
        fit = stats.linregress(z, values)
        return [value - fit.slope * one for value, one in zip(values, z, strict=True)]

    found = partial(*(stats.pearsonr(a, b).statistic for a, b in ((x, y), (x, z), (y, z))))
    assert found == pytest.approx(stats.pearsonr(residuals(x), residuals(y)).statistic, abs=1e-9)
    assert partial(0.5, 1.0, 0.5) is None


def test_two_correlations_differ_only_beyond_chance() -> None:
    rng = random.Random(4)
    x = [rng.gauss(0, 1) for _ in range(500)]
    weak, weak_too, strong = (
        pearson(x, [share * one + rng.gauss(0, 1) for one in x]) for share in (0.3, 0.3, 2.0)
    )  # fmt: skip
    assert weak is not None
    assert weak_too is not None
    assert strong is not None
    assert differ(weak, weak_too) > 0.01
    assert differ(weak, strong) < 1e-6


@pytest.mark.parametrize(("x", "y"), [([1.0] * 30, list(range(30))), ([1.0, 2.0], [2.0, 1.0]), ([], [])])
def test_there_is_none_without_variation_or_samples(x: list[float], y: list[float]) -> None:
    assert (pearson(x, y), spearman(x, y), within(x, y, [0] * len(x))) == (None, None, None)


def test_what_is_not_finite_is_left_out() -> None:
    x, y = [float(at) for at in range(20)], [float(at % 3) for at in range(20)]
    assert pearson([*x, math.nan], [*y, 5.0]) == pearson(x, y)
    assert spearman([*x, 1.0], [*y, math.inf]) == spearman(x, y)


def test_a_perfect_correlation_has_no_interval() -> None:
    x = [float(at) for at in range(20)]
    found = pearson(x, x)
    assert found is not None
    assert (found.r, found.low, found.high, found.p_value, found.sure) == (1, 1, 1, 0, 1)
