"""Made-up healthy runs of one to eight samples a step: averages of so few scatter as whole groups never do.

Lengths have heavy tails, rewards know nothing of them, and nothing drifts but what learns: whatever is told is false.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from detecting.logs import Log
from detecting.scoring import Label
from rlhfd_daemon.traces import Row

__all__ = ["GROUP", "small_batches"]

GROUP = "small-batches"
T0 = 1_790_000_000.0
LENGTHS = ("lognormal", "pareto")
REWARDS = ("graded", "verified")
TOKEN_SECONDS = 0.02


@dataclass(frozen=True)
class Habits:
    """What makes one run unlike another. ``batch``: samples of a step, ``group``: of a prompt. ``cap``: the longest
    answer, in medians."""

    batch: int
    group: int
    lengths: str
    rewards: str
    median_length: float
    tail: float
    cap: float
    right: float  # the share of answers that are right
    better: float  # how much the mean reward rises until the end, in standard deviations of a sample


def small_batches(runs: int, steps: int, seed: int = 0) -> Iterator[Log]:
    """Healthy runs: every batch size with every kind of lengths and rewards in turn."""
    kinds = itertools.cycle(itertools.product(range(1, 9), LENGTHS, REWARDS))
    for number, (batch, lengths, rewards) in zip(range(runs), kinds, strict=False):
        label = Label(f"small_{seed}_{number}_of_{batch}_{lengths}_{rewards}", GROUP, steps)
        yield Log(label, made=partial(rows, (seed, number), steps, batch, lengths, rewards))


def habits(draw: np.random.Generator, batch: int, lengths: str, rewards: str) -> Habits:
    """A run's habits, drawn. A group is a divisor of the batch, so that there are whole prompts only."""
    heavy = lengths == "pareto"
    return Habits(
        batch=batch,
        group=int(draw.choice([size for size in range(1, batch + 1) if batch % size == 0])),
        lengths=lengths,
        rewards=rewards,
        median_length=float(draw.uniform(80, 600)),
        tail=float(draw.uniform(1.3, 2.5) if heavy else draw.uniform(0.6, 1.2)),
        cap=float(draw.uniform(2.5, 20)),
        right=float(draw.uniform(0.1, 0.85)),
        better=float(draw.uniform(0, 1)),
    )


def rows(key: tuple[int, int], steps: int, batch: int, lengths: str, rewards: str) -> Iterator[Row]:
    """The run, step by step, as its log would have it."""
    draw = np.random.default_rng(key)
    made = habits(draw, batch, lengths, rewards)
    now = T0
    for step in range(1, steps + 1):
        tokens = _tokens(draw, made)
        values = {
            **_lengths(made, tokens),
            **_rewards(draw, made, step / steps),
            **_policy(draw, step / steps, float(tokens.sum())),
            **_seconds(draw, tokens),
        }
        now += values["train/timing/step_total"]
        yield Row(step, now, values)


def _tokens(draw: np.random.Generator, made: Habits) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The lengths of a step's answers; whole numbers, at most the cap."""
    if made.lengths == "pareto":
        drawn = (1 + draw.pareto(made.tail, made.batch)) / 2 ** (1 / made.tail)
    else:
        drawn = draw.lognormal(0, made.tail, made.batch)
    return np.ceil(made.median_length * np.minimum(made.cap, drawn))


def _lengths(made: Habits, tokens: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> dict[str, float]:
    cut = float((tokens >= np.ceil(made.median_length * made.cap)).mean())
    mean = float(tokens.mean())
    return {
        "train/response_length": mean,
        "train/rollout/response_length_mean": mean,
        "train/total_length": mean + 150,
        "train/rollout/truncated_rate": cut,
        "train/rollout/num_samples": float(made.batch),
    }


def _rewards(draw: np.random.Generator, made: Habits, part: float) -> dict[str, float]:
    if made.rewards == "verified":
        right = made.right + 0.05 * made.better * part
        each = (draw.random(made.batch) < right).astype(float)
    else:
        each = draw.normal(made.better * part, 1, made.batch)
    found = {
        "train/reward": float(each.mean()),
        "train/rollout/reward_mean": float(each.mean()),
        "train/rollout/reward_std": float(each.std(ddof=1)) if made.batch > 1 else 0.0,
    }
    if made.group > 1:
        spreads = each.reshape(-1, made.group).std(axis=1, ddof=1)
        found["train/group_reward_std"] = float(spreads.mean())
        found["rlhfd/group/zero_std_ratio"] = float((spreads == 0).mean())
    return found


def _policy(draw: np.random.Generator, part: float, tokens: float) -> dict[str, float]:
    """Means over tokens: the fewer there are, the more they scatter."""
    few = 1 / np.sqrt(tokens)
    return {
        "train/kl": 0.15 * part**0.7 * float(draw.lognormal(0, min(0.5, 3 * few))) + 1e-4,
        "train/ppo_kl": float(draw.normal(0, 0.02 * few)),
        "train/entropy_loss": (0.4 + 0.8 * np.exp(-3 * part)) * float(draw.lognormal(0, min(0.3, 2 * few))),
        "train/ppo_clip_ratio": float(draw.binomial(int(tokens), 0.01) / tokens),
        "train/actor_grad_norm": 0.8 * float(draw.lognormal(0, 0.4)),
        "train/policy_loss": float(draw.normal(0, 2 * few)),
    }


def _seconds(draw: np.random.Generator, tokens: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> dict[str, float]:
    """A batch is generated as long as its longest answer takes; the rest follows from all tokens."""
    generation = TOKEN_SECONDS * float(tokens.max()) * float(draw.lognormal(0, 0.05))
    training = 2 + 0.002 * float(tokens.sum()) * float(draw.lognormal(0, 0.05))
    return {
        "train/timing/generation": generation,
        "train/timing/ppo_train": training,
        "train/timing/step_total": generation + training + 0.3,
    }
