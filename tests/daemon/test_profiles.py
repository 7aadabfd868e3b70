"""Which changes of which metric matter, and to whom."""

from __future__ import annotations

import pytest

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.analyzers.profiles import PROFILES, UNKNOWN, Profile, profile_of

NEVER = float("inf")


@pytest.mark.parametrize(
    ("metric", "up", "down"),
    [
        ("train/kl", True, False),
        ("train/ppo_kl", True, False),
        ("train/entropy_loss", True, True),
        ("train/reward", True, True),
        ("train/rollout/reward_mean", True, True),
        ("train/rollout/reward_std", True, True),
        ("train/group_reward_std", True, True),
        ("train/actor_grad_norm", True, True),
        ("train/critic_grad_norm", True, False),
        ("train/critic_loss", True, False),
        ("train/response_length", True, True),
        ("train/truncated_ratio", True, False),
        ("train/ppo_clip_ratio", True, False),
        ("train/gpt_loss", True, False),
        ("train/loss_mean", True, False),
        ("train/acc_mean", False, True),
        ("train/timing/step_total", True, False),
        ("rlhfd/ratio_of/generation_rest", True, False),
        ("rlhfd/repetition/consecutive_ratio", True, False),
    ],
)
def test_a_metric_is_watched_to_the_side_that_does_harm(metric: str, up: bool, down: bool) -> None:
    profile = profile_of(metric)
    assert profile is not None
    assert (profile.up < NEVER, profile.down < NEVER) == (up, down)


@pytest.mark.parametrize(
    "metric",
    ["train/actor_lr", "actor/lr", "lr", "train/policy_loss", "train/num_samples", "train/return", "eval/reward_mean",
     "phase/save/seconds", "host/load1", "gpu/0/power_watts", "rlhfd/kl/max", "rlhfd/ratio_of/kl_policy_loss"],
)  # fmt: skip
def test_what_moves_without_harm_is_left_alone(metric: str) -> None:
    assert profile_of(metric) is None


def test_a_metric_that_nobody_knows_is_watched_but_wakes_nobody() -> None:
    profile = profile_of("judge/score")
    assert profile is not None
    assert (profile.severity_up, profile.severity_down) == (Severity.INFO, Severity.INFO)
    assert max(profile.up, profile.down) < NEVER


def test_a_reward_that_rises_is_good_news_and_one_that_falls_is_not() -> None:
    profile = profile_of("train/reward")
    assert profile is not None
    assert (profile.severity_up, profile.severity_down) == (Severity.INFO, Severity.WARNING)


def test_every_pattern_can_be_the_first_that_matches() -> None:
    """A row behind one that takes all of its names would never count."""
    for index, profile in enumerate(PROFILES):
        names = [pattern.replace("*", "x") for pattern in profile.patterns]
        taken = [profile_of(name) for name in names]
        expected = profile if min(profile.up, profile.down) < NEVER else None
        assert expected in taken, (index, names)


@pytest.mark.parametrize("profile", [*PROFILES, UNKNOWN], ids=lambda profile: profile.patterns[0])
def test_the_limits_of_a_row_fit_its_measure(profile: Profile) -> None:
    limits = [limit for limit in (profile.up, profile.down) if limit < NEVER]
    assert all(limit > (1 if profile.measure == "ratio" else 0) for limit in limits)
    assert profile.floor >= 0
    assert profile.patience >= 1
    assert profile.after >= 6  # a line needs as many


@pytest.mark.parametrize(
    ("profile", "is_up", "recent", "expected", "matters"),
    [
        (Profile((), up=2.0), True, 2.0, 1.0, True),
        (Profile((), up=2.0), True, 1.9, 1.0, False),
        (Profile((), up=2.0), False, 0.1, 1.0, False),  # not watched to that side
        (Profile((), down=2.0), False, 0.5, 1.0, True),
        (Profile((), down=2.0), False, 0.6, 1.0, False),
        (Profile((), down=2.0), False, 0.0, 1.0, True),
        (Profile((), up=2.0, least=5.0), True, 3.0, 1.0, False),
        (Profile((), up=2.0, least=5.0), True, 6.0, 1.0, True),
        (Profile((), "shift", up=0.1), True, 0.31, 0.2, True),
        (Profile((), "shift", up=0.1), True, 0.29, 0.2, False),
        (Profile((), "range", up=0.35), True, 3.6, 0.0, True),
        (Profile((), "range", up=0.35), True, 3.4, 0.0, False),
        (Profile((), "range", down=0.35), False, -3.6, 0.0, True),
    ],
)
def test_a_change_matters_by_factor_by_difference_or_by_share_of_the_range(
    profile: Profile, is_up: bool, recent: float, expected: float, matters: bool
) -> None:
    assert profile.matters(is_up, recent, expected, covered=10.0) is matters


def test_what_has_lasted_may_be_smaller_where_that_is_forgiven() -> None:
    strict, lenient = Profile((), up=2.0), Profile((), up=2.0, forgiven=0.4)
    for certainty, expected in ((1.0, False), (3.0, True), (30.0, True)):
        assert lenient.matters(True, 1.6, 1.0, 10.0, certainty) is expected
        assert strict.matters(True, 1.6, 1.0, 10.0, certainty) is False
    assert not lenient.matters(True, 1.2, 1.0, 10.0, 1e9)
