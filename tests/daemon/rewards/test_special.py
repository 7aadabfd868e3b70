"""Tail probabilities against scipy's."""

from __future__ import annotations

import pytest
from scipy import stats

from rlhfd_daemon.rewards.special import chi2_sf, f_sf, kolmogorov_sf, least_share, normal_two_sided


@pytest.mark.parametrize("x", [-1.0, 0.0, 0.05, 0.3, 0.8, 1.1799, 1.1801, 1.5, 2.5, 6.0])
def test_kolmogorov_is_scipys(x: float) -> None:
    assert kolmogorov_sf(x) == pytest.approx(stats.kstwobign.sf(x) if x > 0 else 1.0, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("degrees", [1, 2, 9, 31, 400])
@pytest.mark.parametrize("x", [-1.0, 0.0, 1e-6, 0.5, 3.0, 30.0, 500.0, float("inf")])
def test_chi_squared_is_scipys(x: float, degrees: int) -> None:
    assert chi2_sf(x, degrees) == pytest.approx(stats.chi2.sf(x, degrees), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("degrees", [(1, 5), (1, 1022), (26.5, 600), (9, 2)])
@pytest.mark.parametrize("x", [-1.0, 0.0, 1e-3, 0.9, 1.0, 4.0, 60.0, float("inf")])
def test_fishers_f_is_scipys(x: float, degrees: tuple[float, float]) -> None:
    assert f_sf(x, *degrees) == pytest.approx(stats.f.sf(x, *degrees), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("z", [-4.0, 0.0, 1.96, 8.0])
def test_the_normal_is_scipys(z: float) -> None:
    assert normal_two_sided(z) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-12)


@pytest.mark.parametrize(("part", "whole"), [(0, 10), (1, 10), (17, 32), (32, 32)])
def test_the_least_share_is_scipys_wilson_interval(part: int, whole: int) -> None:
    expected = stats.binomtest(part, whole).proportion_ci(method="wilson").low
    assert least_share(part, whole) == pytest.approx(expected, abs=1e-12)


def test_the_least_share_of_nothing_is_0() -> None:
    assert least_share(0, 0) == 0
