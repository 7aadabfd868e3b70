"""Batches of one to eight samples with heavy-tailed lengths: healthy, and told so."""

from __future__ import annotations

from collections import Counter
from functools import cache, partial

import numpy as np
import pytest

from detecting.logs import Log, listened
from detecting.scoring import Label, judge
from detecting.small_batches import GROUP, small_batches
from rlhfd_daemon.traces import Row

RUNS, STEPS, SEED = 64, 400, 4
PER_1000 = 0.5  # false episodes of all analyzers together
RULE_PER_1000 = 0.12
# Rules on means and spreads of few samples, which need a look at single values beside them.
CAREFUL = ("length_doubled", "length_up_reward_down", "reward_collapse", "reward_constant_long", "step_slow")


@cache
def counted() -> tuple[int, Counter[str]]:
    """False episodes, and alerts by rule."""
    episodes, alerts = 0, Counter[str]()
    for log in small_batches(RUNS, STEPS, SEED):
        found = listened(log)
        episodes += judge(log.label, found).false_episodes
        alerts.update(one.rule for one in found)
    return episodes, alerts


def test_clean_steps_of_small_batches_give_hardly_a_false_episode() -> None:
    episodes, alerts = counted()
    assert episodes <= PER_1000 * RUNS * STEPS / 1000, alerts.most_common()


@pytest.mark.parametrize("rule", CAREFUL)
def test_no_rule_mistakes_the_scatter_of_small_batches_for_a_fault(rule: str) -> None:
    assert counted()[1][rule] <= RULE_PER_1000 * RUNS * STEPS / 1000


@pytest.mark.parametrize(
    ("metric", "share"), [("rlhfd/group/zero_std_ratio", 0.78), ("train/rollout/truncated_rate", 0.25)]
)
def test_a_share_of_one_sample_or_group_a_step_is_0_or_1_and_often_1_several_times_in_turn(
    metric: str, share: float
) -> None:
    draw = np.random.default_rng(7)
    courses = [draw.random(1500) < share for _ in range(8)]
    logs = [
        Log(
            Label("one", GROUP, 1500),
            made=partial(map, Row, range(1, 1501), range(1500), [{metric: float(x)} for x in each]),
        )
        for each in courses
    ]
    assert sum(len(listened(log)) for log in logs) <= 1


def values(log: Log, name: str) -> list[float]:
    return [row.metrics[name] for row in log.rows()]


def test_the_made_up_batches_are_small_and_differ_and_their_lengths_have_heavy_tails() -> None:
    logs = list(small_batches(32, 200))
    assert {values(log, "train/rollout/num_samples")[0] for log in logs} == set(range(1, 9))
    for log in logs:
        lengths = sorted(values(log, "train/rollout/response_length_mean"))
        assert lengths[-1] > 1.5 * lengths[len(lengths) // 2]
    assert len({repr(values(log, "train/kl")) for log in logs}) == len(logs)


def test_the_same_seed_gives_the_same_batches_and_another_seed_others() -> None:
    first, again, other = (next(small_batches(1, 50, seed)) for seed in (1, 1, 2))
    assert values(first, "train/kl") == values(again, "train/kl")
    assert values(first, "train/kl") != values(other, "train/kl")
