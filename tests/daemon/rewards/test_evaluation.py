"""Against what the policy is not trained on: Gao's law by least squares, calibration, area under the curve."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats

from rlhfd_daemon.rewards.calibration import auc, auc_error, calibration, probabilities
from rlhfd_daemon.rewards.overoptimisation import GoldLaw


def law(alpha: float, beta: float, kls: list[float], noise: float = 0.0, seed: int = 1, start: float = 0.2) -> GoldLaw:
    rng, found = random.Random(seed), GoldLaw()
    for kl in kls:
        d = math.sqrt(kl)
        found.add(kl, start + d * (alpha - beta * math.log(d)) + rng.gauss(0, noise))
    return found


KLS = [0.1 * at * at for at in range(1, 31)]  # d up to 9.5


def test_the_law_is_found_again_with_its_peak() -> None:
    fit = law(0.8, 0.5, KLS).fit()
    assert fit is not None
    assert (fit.start, fit.alpha, fit.beta) == pytest.approx((0.2, 0.8, 0.5), abs=1e-8)
    assert fit.peak == pytest.approx(math.exp(0.8 / 0.5 - 1))
    assert fit.passed
    assert fit.at(fit.peak or 0) > fit.at(fit.now)
    assert fit.at(0) == fit.start


def test_the_fit_is_numpys_least_squares() -> None:
    rng = random.Random(2)
    rewards = [rng.gauss(1, 0.3) for _ in KLS]
    d = np.sqrt(KLS)
    rows = np.stack([np.ones_like(d), d, -d * np.log(d)], axis=1)
    (start, alpha, beta), residuals, *_ = np.linalg.lstsq(rows, np.array(rewards), rcond=None)
    found = GoldLaw()
    for kl, reward in zip(KLS, rewards, strict=True):
        assert found.add(kl, reward)
    fit = found.fit()
    assert fit is not None
    assert (fit.start, fit.alpha, fit.beta) == pytest.approx((start, alpha, beta), rel=1e-6)
    assert fit.residual == pytest.approx(math.sqrt(residuals[0] / 27), rel=1e-6)
    direction = np.array([0, 1, -1 - math.log(fit.now)])
    variance = residuals[0] / 27 * direction @ np.linalg.inv(rows.T @ rows) @ direction
    assert fit.slope_error == pytest.approx(math.sqrt(variance), rel=1e-6)


def test_a_peak_ahead_has_not_passed() -> None:
    passed = 0
    for seed in range(20):
        fit = law(2.0, 0.5, KLS[:20], noise=0.05, seed=seed).fit()
        assert fit is not None
        passed += fit.passed
    assert passed == 0


def test_a_peak_behind_has_passed_despite_noise() -> None:
    for seed in range(20):
        fit = law(0.8, 0.5, KLS, noise=0.05, seed=seed).fit()
        assert fit is not None
        assert fit.passed


def test_there_is_no_fit_of_too_little() -> None:
    assert law(1, 0.5, KLS[:5]).fit() is None
    assert law(1, 0.5, [4.0 + 0.01 * at for at in range(20)]).fit() is None
    assert law(1, 0.5, [4.0] * 20).fit() is None
    refused = GoldLaw()
    assert [refused.add(*pair) for pair in ((0.0, 1.0), (-1.0, 1.0), (1.0, math.nan), (math.inf, 1.0))] == [False] * 4
    assert refused.count == 0


def test_a_curve_that_only_rises_has_no_peak() -> None:
    fit = law(0.5, -0.1, KLS).fit()
    assert fit is not None
    assert fit.peak is None
    assert not fit.passed


def scored(seed: int, sharpen: float = 1.0, count: int = 4000) -> tuple[list[float], list[bool]]:
    rng = random.Random(seed)
    predicted = [rng.random() for _ in range(count)]
    labels = [rng.random() < 0.5 + (one - 0.5) * sharpen for one in predicted]
    return predicted, labels


def test_calibration_is_its_definition() -> None:
    predicted, labels = scored(1, 0.4)
    found = calibration(predicted, labels)
    assert found is not None
    p, y = np.array(predicted), np.array(labels, float)
    at = np.minimum(9, (p * 10).astype(int))
    ece = sum(np.mean(at == k) * abs(p[at == k].mean() - y[at == k].mean()) for k in range(10))
    assert found.ece == pytest.approx(ece, abs=1e-12)
    assert found.brier == pytest.approx(float(np.mean((p - y) ** 2)), abs=1e-12)
    assert sum(one.count for one in found.bins) == 4000


def test_calibrated_scores_are_told_from_others() -> None:
    good, bad = calibration(*scored(2)), calibration(*scored(2, 0.2))
    assert good is not None
    assert bad is not None
    assert good.ece < 0.03
    assert bad.ece > 0.15


def test_the_area_is_scipys_mann_whitney() -> None:
    predicted, labels = scored(3, count=300)
    predicted = [round(one, 1) for one in predicted]
    good = [p for p, label in zip(predicted, labels, strict=True) if label]
    bad = [p for p, label in zip(predicted, labels, strict=True) if not label]
    expected = stats.mannwhitneyu(good, bad).statistic / (len(good) * len(bad))
    found = auc(predicted, labels)
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 < auc_error(found or 0, len(good), len(bad)) < 0.05
    assert auc([1.0, 2.0], [True, True]) is None


def test_scores_become_probabilities() -> None:
    assert probabilities([0.0, 0.3, 1.0]) == ([0.0, 0.3, 1.0], "identity")
    found, how = probabilities([-2000.0, 0.0, 2.0])
    assert how == "logistic"
    assert found == pytest.approx([0, 0.5, 0.8808], abs=1e-4)
    assert calibration([], []) is None
    with pytest.raises(ValueError, match="from 0 to 1"):
        calibration([1.5], [True])
