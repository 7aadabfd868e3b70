"""What single rewards say, and groups of them: counts, pile-ups, outliers, new values, variance components."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from rlhfd_daemon.rewards.groups import grouped, groups_of
from rlhfd_daemon.rewards.values import is_graded, new_repeats, outliers, saturation, validity


def gaussian(seed: int, count: int = 500) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(0, 1) for _ in range(count)]


def half_precision(values: list[float]) -> list[float]:
    """As bfloat16 has them: eight bits."""
    return [float(np.float32(np.uint32(np.float32(v).view(np.uint32) & 0xFFFF0000).view(np.float32))) for v in values]


def test_what_is_wrong_with_rewards_is_counted() -> None:
    found = validity([1.0, None, math.nan, math.inf, 0.0], [False, True], [0.1, None, 9.0], 5.0)
    assert (found.count, found.missing, found.failed, found.nan, found.infinite, found.late) == (5, 1, 1, 1, 1, 1)
    assert found.bad_ratio == pytest.approx(0.6)
    assert validity([]).bad_ratio == 0


@pytest.mark.parametrize(
    ("values", "graded"),
    [([0.0, 1.0] * 50, True), ([0.1 * at for at in range(11)] * 20, True), (gaussian(1), False), ([1.0] * 9, True),
     (half_precision(gaussian(2)), False)],
)  # fmt: skip
def test_a_verifier_is_told_from_a_reward_model(values: list[float], graded: bool) -> None:
    assert is_graded(values) is graded


def test_a_clip_range_saturates() -> None:
    clipped = [min(0.8, max(-5.0, value)) for value in gaussian(3)]
    known, guessed = saturation(clipped, (-5.0, 0.8)), saturation(clipped)
    assert known is not None
    assert guessed is not None
    share = sum(1 for value in clipped if value == 0.8) / 500
    assert (known.low_ratio, known.high_ratio, guessed.high_ratio) == (0, share, share)
    assert saturation(gaussian(3)) is not None
    free = saturation(gaussian(3))
    assert free is not None
    assert (free.low_ratio, free.high_ratio) == (0, 0)
    assert saturation([0.0, 1.0] * 50) is None
    both = saturation([0.0, 1.0] * 50, (0.0, 1.0))
    assert both is not None
    assert (both.low_ratio, both.high_ratio) == (0.5, 0.5)


def test_outliers_do_not_hide_each_other() -> None:
    found = outliers([*gaussian(4), *[1e4] * 20])
    assert found is not None
    assert found.value == 1e4
    assert found.deviations > 1000
    assert found.ratio == pytest.approx(20 / 520)
    healthy = outliers(gaussian(4))
    assert healthy is not None
    assert healthy.ratio == 0
    assert outliers([0.0] * 95 + [1.0] * 5) is None
    assert outliers([1.0, 2.0]) is None


def test_a_new_constant_is_found_among_continuous_rewards() -> None:
    current = [*gaussian(6)[:450], *[0.0] * 50]
    assert [(one.value, one.ratio) for one in new_repeats(gaussian(5), current)] == [(0.0, 0.1)]
    assert new_repeats(current, current) == []


def test_coarse_numbers_are_no_repeats() -> None:
    assert new_repeats(half_precision(gaussian(7)), half_precision([value * 0.2 for value in gaussian(8)])) == []


@pytest.mark.parametrize(
    ("now", "found"), [([0.0] * 100 + [1.0] * 400, []), ([0.0, 0.5] * 250, [0.5]), ([0.0, 2.0] * 250, [])]
)
def test_the_ties_of_a_verifier_are_no_repeats(now: list[float], found: list[float]) -> None:
    assert [one.value for one in new_repeats([0.0] * 400 + [1.0] * 100, now)] == found


def test_groups_without_variance_are_counted_by_what_they_lack() -> None:
    found = groups_of([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0], [0.5, 0.5], [1.0]])
    assert (found.count, found.dead, found.dead_best, found.dead_worst) == (4, 3, 1, 1)
    assert found.dead_ratio == 0.75
    assert groups_of([[1.0, 1.0]]).dead_best == 0
    assert groups_of([[1.0, 1.0]], best=1.0, worst=0.0).dead_best == 1
    assert groups_of([]).dead_ratio == 0


def test_variance_components_are_those_that_were_planted() -> None:
    rng = random.Random(9)
    groups = []
    for size in [4, 8, 16] * 200:
        mean = rng.gauss(0, 2)
        groups.append([rng.gauss(mean, 1) for _ in range(size)])
    found = groups_of(groups)
    assert found.within_variance == pytest.approx(1, rel=0.05)
    assert found.between_variance == pytest.approx(4, rel=0.15)
    assert found.icc == pytest.approx(0.8, abs=0.03)
    assert groups_of([[1.0, 1.0], [1.0, 1.0]]).icc is None


def test_grouped_keeps_the_order() -> None:
    assert grouped("abab", [1, 2, 3, 4]) == {"a": [1, 3], "b": [2, 4]}
