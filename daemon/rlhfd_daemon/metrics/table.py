"""The table of every metric that OpenRLHF logs, and the way from a logged key to its row."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple, get_args

from rlhfd_daemon.metrics.computed import EXPERIENCE
from rlhfd_daemon.metrics.derived import DERIVED
from rlhfd_daemon.metrics.engine import ENGINE
from rlhfd_daemon.metrics.filling import FILLING
from rlhfd_daemon.metrics.gpu import GPU
from rlhfd_daemon.metrics.host import CHECKPOINTS, DISKS, HOST, PROCESSES, REWARD_PROBE
from rlhfd_daemon.metrics.metric import Framework, KeyRange, Metric
from rlhfd_daemon.metrics.ppo import CRITIC, GONE, POLICY, ROLLOUT
from rlhfd_daemon.metrics.ray import RAY
from rlhfd_daemon.metrics.rewards import REWARD_CALLS
from rlhfd_daemon.metrics.trainers import EVALUATION, SUPERVISED, TIMING
from rlhfd_daemon.metrics.training import TRAINING

__all__ = ["GROUPS", "TABLE", "find", "lookup"]

GROUPS: dict[str, tuple[Metric, ...]] = {
    "Policy": POLICY,
    "Critic": CRITIC,
    "Rollouts and rewards": ROLLOUT,
    "Timing": TIMING,
    "Evaluation of PPO": EVALUATION,
    "SFT, reward model and DPO": SUPERVISED,
    "Computed from samples and experiences": EXPERIENCE,
    "Derived from logged metrics": DERIVED,
    "Reward calls": REWARD_CALLS,
    "Computed while policy and critic train": TRAINING,
    "Micro-batches, padding and packing": FILLING,
    "vLLM engines": ENGINE,
    "GPUs": GPU,
    "Host": HOST,
    "Disks": DISKS,
    "Checkpoints": CHECKPOINTS,
    "Reward probe": REWARD_PROBE,
    "Processes": PROCESSES,
    "Ray": RAY,
    "No longer logged": GONE,
}
TABLE: tuple[Metric, ...] = tuple(metric for group in GROUPS.values() for metric in group)

_PLACEHOLDER = {"<datasource>": ".+", "<n>": r"\d+", "<role>": r"[^/]+", "<phase>": r"[^/]+", "<device>": r"[^/]+"}


class _Entry(NamedTuple):
    pattern: re.Pattern[str] | None
    key: KeyRange
    metric: Metric


@functools.lru_cache(maxsize=4096)  # keys come from the wire: bounded
def lookup(key: str, framework: Framework = "openrlhf", version: str | None = None) -> Metric | None:
    """The row of a key as ``framework`` logs it, with or without ``train/`` (``eval/``); ``None`` if there is none.

    ``version`` is OpenRLHF's: only keys of that version count. The name of a pattern's row, such as
    ``eval/eval_<datasource>_pass<n>``, finds it too.
    """
    for candidate in _candidates(key, framework):
        for pattern, key_range, metric in _index(framework):
            matched = candidate == key_range.key or (pattern is not None and pattern.fullmatch(candidate) is not None)
            if matched and (framework != "openrlhf" or key_range.covers(version)):
                return metric
    return None


def find(key: str) -> Metric | None:
    """The row of a key of whichever framework; OpenRLHF's meaning first, then TRL's, then verl's."""
    rows = (lookup(key, framework) for framework in get_args(Framework))
    return next((row for row in rows if row is not None), None)


def _candidates(key: str, framework: Framework) -> tuple[str, ...]:
    """The spellings to try. TRL's ``eval_loss`` reads ``eval/loss`` once transformers hands it to a tracker."""
    if framework == "openrlhf":
        return (key, f"train/{key}", f"eval/{key}")
    bare = key.removeprefix("train/")
    return (key, bare, f"train/{bare}", f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else key)


@functools.cache
def _index(framework: Framework) -> tuple[_Entry, ...]:
    return tuple(
        _Entry(_pattern(key_range.key), key_range, metric) for metric in TABLE for key_range in _keys(metric, framework)
    )


def _keys(metric: Metric, framework: Framework) -> Iterator[KeyRange]:
    if framework == "openrlhf":
        yield from metric.keys
    else:
        yield from map(KeyRange, metric.aliases_trl if framework == "trl" else metric.aliases_verl)


def _pattern(key: str) -> re.Pattern[str] | None:
    """What a key with placeholders matches; ``None`` for a key that is meant literally."""
    parts = re.split(f"({'|'.join(_PLACEHOLDER)})", key)
    if len(parts) == 1:
        return None
    return re.compile("".join(_PLACEHOLDER.get(part) or re.escape(part) for part in parts))
