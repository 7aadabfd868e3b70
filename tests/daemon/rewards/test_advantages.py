"""Advantages made as OpenRLHF makes them are healthy for their estimator, and each fault is told."""

from __future__ import annotations

import random
from statistics import fmean, stdev

import pytest

from rlhfd_daemon.rewards.advantages import ESTIMATORS, fit_advantages, recognise

GROUP, GROUPS, PER_STEP = 6, 48, 8


class Made:
    """Samples of six steps; ``kl`` in the reward (the sample's own, so that advantages lose it). ``values`` are the
    critic's, right up to noise."""

    def __init__(self, estimator: str, seed: int = 1, kl_coef: float = 0.0, binary: bool = False) -> None:
        rng = random.Random(seed)
        self.rewards: list[float] = []
        self.prompts: list[str] = []
        self.steps: list[int] = []
        self.kls: list[float] = []
        self.advantages: list[float] = []
        for group in range(GROUPS):
            ease = rng.gauss(0, 1)
            drawn = [ease + rng.gauss(0, 1) for _ in range(GROUP)]
            self.rewards += [float(one > 0) for one in drawn] if binary else drawn
            self.prompts += [f"p{group}"] * GROUP
            self.steps += [group // PER_STEP] * GROUP
            self.kls += [abs(rng.gauss(1, 0.5)) for _ in drawn] if kl_coef else [0.0] * GROUP
        for at in range(0, len(self.rewards), GROUP):
            group_rewards = self.rewards[at : at + GROUP]
            mean = fmean(group_rewards)
            for reward, kl in zip(group_rewards, self.kls[at : at + GROUP], strict=True):
                shaped = {
                    "group_norm": (reward - mean) / (stdev(group_rewards) + 1e-9),
                    "dr_grpo": reward - mean,
                    "rloo": reward - (sum(group_rewards) - reward) / (GROUP - 1),
                    "reinforce_baseline": reward - mean,
                    "reinforce": reward,
                    "gae": reward - (0.5 * mean + rng.gauss(0, 0.5)),
                }[estimator]
                self.advantages.append(shaped - kl_coef * kl)
        if estimator in ("reinforce", "reinforce_baseline", "gae"):
            self._whiten()

    def _whiten(self) -> None:
        size = PER_STEP * GROUP
        for at in range(0, len(self.advantages), size):
            part = self.advantages[at : at + size]
            mean, std = fmean(part), stdev(part)
            self.advantages[at : at + size] = [(one - mean) / std for one in part]

    def fault(self, estimator: str, advantages: list[float] | None = None) -> str | None:
        given = self.advantages if advantages is None else advantages
        found = fit_advantages(estimator, self.rewards, given, self.steps, self.prompts, self.kls)
        assert found is not None
        return found.fault


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_an_estimator_makes_is_healthy(estimator: str, kl_coef: float, binary: bool) -> None:
    for seed in range(5):
        assert Made(estimator, seed, kl_coef, binary).fault(estimator) is None


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_wrong_sign_is_told(estimator: str) -> None:
    made = Made(estimator)
    assert made.fault(estimator, [-one for one in made.advantages]) == "reversed"


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_advantages_of_other_samples_are_told(estimator: str) -> None:
    made = Made(estimator)
    assert made.fault(estimator, random.Random(3).sample(made.advantages, len(made.advantages))) in ("weak", "reversed")


@pytest.mark.parametrize("estimator", ["group_norm", "dr_grpo", "rloo"])
def test_groups_that_are_not_centred_are_told(estimator: str) -> None:
    made = Made(estimator)
    assert made.fault(estimator, [one + 0.7 for one in made.advantages]) == "off_centre"


def test_half_the_advantages_lost_to_clipping_are_told() -> None:
    made = Made("dr_grpo")
    assert made.fault("dr_grpo", [min(one, 0.0) for one in made.advantages]) == "weak"


@pytest.mark.parametrize("estimator", ["group_norm", "dr_grpo", "rloo"])
@pytest.mark.parametrize("binary", [False, True])
def test_an_estimator_is_recognised_by_its_formula(estimator: str, binary: bool) -> None:
    made = Made(estimator, 2, binary=binary)
    assert recognise(made.rewards, made.advantages, made.steps, made.prompts) == estimator


@pytest.mark.parametrize("estimator", ["reinforce", "reinforce_baseline", "gae"])
def test_what_has_no_formula_of_its_own_is_not_guessed(estimator: str) -> None:
    made = Made(estimator, 2)
    assert recognise(made.rewards, made.advantages, made.steps, made.prompts) is None


def test_rewards_that_do_not_vary_have_no_fit() -> None:
    assert fit_advantages("rloo", [1.0] * 40, [0.0] * 40, [0] * 40, ["p"] * 40) is None
