"""What rules cost a sample: `PYTHONPATH=tests .venv/bin/python tests/bench/rules_cost.py`."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.analyzers.rules import RuleAnalyzer
from rlhfd_daemon.config_rules import RulesConfig
from rlhfd_daemon.rules import Clause, Rule, Signal
from rlhfd_daemon.rules.catalogue import CATALOGUE
from rlhfd_daemon.rules.facts import Facts
from rlhfd_daemon.sample import Sample

KL = "train/kl"
# What a healthy run logs at each step, about.
LEVELS = {
    "train/kl": 0.05, "train/ppo_kl": 0.003, "train/ppo_clip_ratio": 0.004, "train/policy_loss": 0.02,
    "train/entropy_loss": 1.2, "train/actor_grad_norm": 1.1, "train/actor_lr": 1e-6, "train/reward": 0.5,
    "train/return": 0.5, "train/response_length": 210.0, "train/total_length": 400.0, "train/truncated": 0.02,
    "train/group_reward_std": 0.3, "train/rollout/reward_mean": 0.5, "train/rollout/reward_std": 0.4,
    "train/rollout/response_length_mean": 210.0, "train/rollout/truncated_rate": 0.02,
    "train/timing/step_total": 30.0, "train/timing/generation": 15.0, "train/critic_loss": 0.1,
}  # fmt: skip


def threshold(number: int) -> Rule:
    """A rule of one plain threshold."""
    clause = Clause(Signal(metric=KL), ">", float(number))
    return Rule(
        id=f"r{number}", title="", family="kl", severity=Severity.WARNING, when=(clause,), hold=(3, 5), summary="",
        remedy="", source="",
    )  # fmt: skip


def steps(first: int, count: int, names: Sequence[str], seed: int = 0) -> list[Sample]:
    """Samples of healthy steps."""
    source = random.Random(seed)
    return [
        Sample("run", "boot", "PPOTrainer", 0, step, name, LEVELS[name] * source.gauss(1.0, 0.05), float(step), step)
        for step in range(first, first + count)
        for name in names
    ]


def per_sample(rules: Sequence[Rule], names: Sequence[str], after: int = 100, count: int = 20_000) -> float:
    """Microseconds a sample, with the watches that the daemon asks for once; the best of five parts. What the loop
    itself takes is in it."""
    analyzer = RuleAnalyzer(RulesConfig(), rules, Facts)
    watches = {one.name: analyzer.watch(one) for one in steps(0, 1, names)}
    for one in steps(1, after, names):
        if (watch := watches[one.name]) is not None:
            watch(one)
    best, part = float("inf"), count // 5 // len(names)
    for number in range(5):
        samples = steps(after + 1 + number * part, part, names)
        start = time.perf_counter()
        for one in samples:
            if (watch := watches[one.name]) is not None:
                watch(one)
        best = min(best, (time.perf_counter() - start) / len(samples))
    return best * 1e6


def main() -> None:
    every = tuple(LEVELS)
    print(f"a metric that no rule reads      {per_sample([threshold(1)], ['train/reward']):6.2f} µs a sample")
    print(f"three rules of one threshold     {per_sample([threshold(n) for n in (1, 2, 3)], [KL]):6.2f} µs a sample")
    for after in (300, 20_000):
        cost = per_sample(CATALOGUE, every, after)
        step = f"{cost * len(every):.0f} µs a step"
        print(f"all {len(CATALOGUE)} rules, at step {after:6,}    {cost:6.2f} µs a sample, {step}")


if __name__ == "__main__":
    main()
