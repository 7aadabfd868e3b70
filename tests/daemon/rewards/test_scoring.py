"""The scorer as an instrument: good and bad ones get values apart, whatever the distribution of the reward."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from rlhfd_daemon.rewards.scoring import consistency, normalisation, stability, step_mean

DRAWS: dict[str, Callable[[random.Random], float]] = {
    "gaussian": lambda rng: rng.gauss(0, 1),
    "verifier": lambda rng: float(rng.random() < 0.4),
    "sparse": lambda rng: float(rng.random() < 0.05),
    "heavy": lambda rng: rng.gauss(0, 1) / max(0.05, abs(rng.gauss(0, 1))),
}


def steps(draw: Callable[[random.Random], float], seed: int, jump: float = 0.0, trend: float = 0.0) -> list[object]:
    rng = random.Random(seed)
    made = []
    for at in range(60):
        shift = (jump if rng.random() < 0.5 else 0.0) + trend * at
        made.append(step_mean([[draw(rng) + shift for _ in range(4)] for _ in range(32)]))
    return [one for one in made if one is not None]


@pytest.mark.parametrize("name", DRAWS)
def test_steps_that_differ_by_chance_only_are_stable(name: str) -> None:
    for seed in range(5):
        found = stability(steps(DRAWS[name], seed))  # type: ignore[arg-type]
        assert found is not None
        assert found.stability > 0.5
        assert found.p_value > 1e-6


def test_a_trend_is_no_jump() -> None:
    found = stability(steps(DRAWS["gaussian"], 1, trend=0.05))  # type: ignore[arg-type]
    assert found is not None
    assert found.stability > 0.5


@pytest.mark.parametrize("name", ["gaussian", "verifier", "sparse"])
def test_a_scorer_that_is_another_one_from_step_to_step_is_unstable(name: str) -> None:
    found = stability(steps(DRAWS[name], 1, jump=1.0))  # type: ignore[arg-type]
    assert found is not None
    assert found.stability < 0.1
    assert found.p_value < 1e-6


def test_stability_needs_some_steps_and_knows_constants() -> None:
    same = step_mean([[1.0], [1.0]])
    other = step_mean([[2.0], [2.0]])
    assert same is not None
    assert other is not None
    assert step_mean([[1.0]]) is None
    assert stability([same] * 7) is None
    constant, jumping = stability([same] * 9), stability([same, other] * 5)
    assert constant is not None
    assert jumping is not None
    assert (constant.stability, jumping.stability) == (1, 0)


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 1, 1), (0.2, 0.93, 0.99), (1.0, 0.35, 0.65), (30.0, 0, 0.2)])
def test_consistency_is_the_share_that_is_no_noise(noise: float, low: float, high: float) -> None:
    rng = random.Random(4)
    true = [rng.gauss(0, 1) for _ in range(400)]
    answers = [at for at in range(400) for _ in range(2)]
    found = consistency(answers, [true[at] + rng.gauss(0, noise) for at in answers])
    assert found is not None
    assert found.repeated == 400
    assert found.consistency is not None
    assert low <= found.consistency <= high
    assert (found.differing == 0) == (noise == 0)


def test_consistency_is_unknown_without_repeats_or_variance() -> None:
    assert consistency("abc", [1.0, 2.0, 3.0]) is None
    found = consistency("aabb", [1.0] * 4)
    assert found is not None
    assert found.consistency is None


def test_normalisation_shows_its_slope_and_what_it_reorders() -> None:
    rng = random.Random(5)
    raw = [rng.gauss(3, 2) for _ in range(400)]
    batches = [at // 100 for at in range(400)]
    fixed = normalisation(raw, [(one - 3) / 2 for one in raw], batches)
    drifting = normalisation(raw, [one / (1 + batch) for one, batch in zip(raw, batches, strict=True)], batches)
    assert fixed is not None
    assert drifting is not None
    assert (fixed.slope, fixed.order, fixed.residual_ratio) == pytest.approx((0.5, 1, 0), abs=1e-9)
    assert (fixed.slope_low, fixed.slope_high) == pytest.approx((0.5, 0.5))
    assert (drifting.slope_low, drifting.slope_high) == pytest.approx((0.25, 1))
    assert drifting.order < 0.95
    assert normalisation([1.0] * 20, raw[:20], batches[:20]) is None
