"""A canary for the reward: the same answers, scored again and again, must keep their scores."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rlhfd_daemon.config_reward_probe import RewardProbeConfig
from rlhfd_daemon.observation import Observation, node
from rlhfd_daemon.rewards.canary import (
    Baseline,
    Budget,
    Change,
    Pair,
    budget_of,
    compare,
    read_baseline,
    read_pairs,
    write_baseline,
)
from rlhfd_daemon.rewards.scorers import FunctionScorer, HttpScorer, Scorer, score_all

__all__ = ["RewardProbePoller", "observations"]

ATTEMPTS = 2


class RewardProbePoller:
    """``state_dir`` holds the baseline where the configuration names none."""

    name = "reward_probe"

    def __init__(self, config: RewardProbeConfig, state_dir: Path) -> None:
        self.interval_seconds = config.interval_seconds
        self._config = config
        self._baseline = Path(config.baseline) if config.baseline else state_dir / "reward_baseline.json"
        self._scorer: Scorer | None = None

    async def poll(self, now: float) -> Iterable[Observation]:
        pairs = read_pairs(Path(self._config.pairs))
        self._scorer = self._scorer or self._made()
        scores, latencies, failures = await score_all(self._scorer, pairs, ATTEMPTS)
        before = read_baseline(self._baseline)
        changes = [] if before is None else compare(pairs, before, scores, self._config.tolerance)
        self._remember(pairs, before, scores)
        budget = budget_of(latencies)
        return list(observations(self._scorer.name, budget, changes, failures, self._config.failed_ratio))

    async def stop(self) -> None:
        if self._scorer is not None:
            await self._scorer.close()

    def _made(self) -> Scorer:
        if self._config.url:
            return HttpScorer(self._config.url, self._config.timeout_seconds)
        python = self._config.python or sys.executable
        return FunctionScorer(Path(self._config.function), self._config.timeout_seconds, python)

    def _remember(self, pairs: Sequence[Pair], before: Baseline | None, scores: Mapping[str, float]) -> None:
        """Scores of pairs that have none yet; the first score of a pair stays."""
        known = {} if before is None else before.scores
        fresh = {pair.key: scores[pair.key] for pair in pairs if pair.key in scores and pair.key not in known}
        if fresh and self._scorer is not None:
            scorer = self._scorer.name if before is None else before.scorer
            write_baseline(self._baseline, Baseline(scorer, {**known, **fresh}))


def observations(
    scorer: str, budget: Budget, changes: Sequence[Change], failures: Mapping[str, str], failed_ratio: float
) -> Iterator[Observation]:
    """What is recorded of one round."""
    times = {"p50": budget.p50_seconds, "p95": budget.p95_seconds, "p99": budget.p99_seconds}
    metrics = {f"reward_probe/latency_{name}_seconds": value for name, value in times.items() if value is not None}
    metrics |= {"reward_probe/failed_ratio": budget.failed_ratio, "reward_probe/changed_count": float(len(changes))}
    yield Observation(subject=node(), metrics=metrics)
    about: dict[str, object] = {"scorer": scorer}
    if changes:
        first = changes[0]
        fields = {**about, "count": len(changes), "pair": first.name, "old": first.old, "new": first.new}
        yield Observation(subject=node(), event="reward_scores_changed", fields=fields)
    elif budget.failed < budget.calls:  # with no answer at all nothing is known
        yield Observation(subject=node(), event="reward_scores_kept", fields=about)
    if budget.failed_ratio > failed_ratio:
        error = next(iter(failures.values()), "some calls failed, and succeeded when asked again")
        fields = {**about, "failed": budget.failed, "calls": budget.calls, "error": error}
        yield Observation(subject=node(), event="reward_probe_failed", fields=fields)
    else:
        yield Observation(subject=node(), event="reward_probe_answered", fields=about)
