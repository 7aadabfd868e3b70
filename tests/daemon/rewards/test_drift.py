"""Tests of two samples against scipy's, and the index against its definition."""

from __future__ import annotations

import math
import random
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rlhfd_daemon.rewards.drift import ks, psi, spread

SAMPLE = st.lists(st.one_of(st.integers(-2, 2).map(float), st.floats(-100, 100)), min_size=2, max_size=60)


def gaussian(seed: int, count: int, mean: float = 0.0, std: float = 1.0) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(mean, std) for _ in range(count)]


@given(SAMPLE, SAMPLE)
def test_ks_of_small_samples_is_scipys_exact_one(reference: list[float], current: list[float]) -> None:
    found = ks(reference, current)
    with warnings.catch_warnings(record=True) as gave_up:
        warnings.simplefilter("always")
        expected = stats.ks_2samp(reference, current, method="exact")
    assert found.statistic == pytest.approx(expected.statistic, abs=1e-12)
    # scipy does not accept its own result if that is above 1 by rounding.
    assert found.p_value == pytest.approx(1.0 if gave_up else expected.pvalue, abs=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.2, 1.0])
def test_ks_of_large_samples_is_scipys_limit(shift: float) -> None:
    reference, current = gaussian(1, 700), gaussian(2, 512, shift)
    found = ks(reference, current)
    assert found.statistic == pytest.approx(stats.ks_2samp(reference, current).statistic, abs=1e-12)
    limit = stats.kstwobign.sf(found.statistic * math.sqrt(700 * 512 / 1212))
    assert found.p_value == pytest.approx(limit, rel=1e-9)


def test_ks_of_ties_only_says_nothing() -> None:
    assert ks([1.0] * 20, [1.0] * 30) == ks([0.0] * 20, [0.0] * 30)
    assert ks([1.0] * 20, [1.0] * 30).p_value == 1


def test_psi_is_its_definition_over_the_references_deciles() -> None:
    reference, current = gaussian(3, 1000), gaussian(4, 800, 0.4)
    edges = [-math.inf, *np.sort(reference)[[100 * k for k in range(1, 10)]], math.inf]
    before = (np.histogram(reference, edges)[0] + 0.5) / (1000 + 5)
    after = (np.histogram(current, edges)[0] + 0.5) / (800 + 5)
    found = psi(reference, current)
    assert found.statistic == pytest.approx(float(np.sum((after - before) * np.log(after / before))), rel=1e-9)
    assert found.p_value < 1e-6


def test_psi_of_a_verifier_has_one_bin_for_each_value() -> None:
    reference, current = [0.0] * 500 + [1.0] * 500, [0.0] * 200 + [1.0] * 800
    a, b = 500.5 / 1001, 800.5 / 1001
    expected = (b - a) * math.log(b / a) + (a - b) * math.log((1 - b) / (1 - a))
    assert psi(reference, current).statistic == pytest.approx(expected, rel=1e-9)


def test_psi_of_one_distribution_is_chance() -> None:
    chances = [psi(gaussian(2 * seed, 300), gaussian(2 * seed + 1, 300)).p_value for seed in range(100)]
    assert sum(1 for one in chances if one < 0.05) < 15
    assert max(chances) > 0.5


def test_psi_sees_what_leaves_a_constant() -> None:
    assert psi([1.0] * 100, [1.0] * 100).statistic == 0
    assert psi([1.0] * 100, [1.0] * 60 + [0.0] * 40).statistic > 0.25


@given(SAMPLE, SAMPLE)
def test_spread_is_scipys_levene_about_the_median(reference: list[float], current: list[float]) -> None:
    with np.errstate(all="ignore"):
        expected = stats.levene(reference, current, center="median").pvalue
    found = spread(reference, current)
    if math.isfinite(expected):
        assert found.p_value == pytest.approx(expected, abs=1e-6)
    if np.std(reference) > 1e-3 and np.std(current) > 1e-3:
        assert found.ratio == pytest.approx(float(np.std(current, ddof=1) / np.std(reference, ddof=1)), rel=1e-6)


def test_spread_of_two_constants_is_one() -> None:
    assert spread([1.0] * 5, [2.0] * 5).p_value == 1
    assert spread([1.0] * 5, [2.0] * 5).ratio is None


def test_nothing_cannot_be_compared() -> None:
    for test in (ks, psi, spread):
        with pytest.raises(ValueError, match="two samples"):
            test([], [1.0])
