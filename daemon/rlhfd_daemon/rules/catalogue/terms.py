"""The words that the rows are written in: metrics that many of them read, and short forms of clauses."""

from __future__ import annotations

import re

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.rules.rule import Aggregate, Argument, Clause, Reference, Signal

__all__ = [
    "CLIPPED", "CRITICAL", "ENTROPY", "EVAL", "INFO", "KL", "LENGTH", "MEASURED", "OURS", "REWARD", "REWARD_SPREAD",
    "STEP_KL", "TRUNCATED", "WARNING", "above", "at_its_best", "below", "every_above", "every_below", "fallen",
    "flags_in", "now_below", "now_times", "times", "zeros",
]  # fmt: skip

INFO, WARNING, CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL
OURS = "our choice"
MEASURED = "measured on public logs"

REWARD, REWARD_SPREAD = "train/rollout/reward_mean", "train/rollout/reward_std"
LENGTH, TRUNCATED = "train/rollout/response_length_mean", "train/rollout/truncated_rate"
KL, STEP_KL, CLIPPED, ENTROPY = "train/kl", "train/ppo_kl", "train/ppo_clip_ratio", "train/entropy_loss"
EVAL = "eval/eval_<datasource>_pass1"

_FLAG = re.compile(r"--(?=[a-z]*[._])[a-z][a-z_.]*[a-z](?![\w-])")  # others' options have neither dot nor underscore


def above(
    metric: str,
    limit: float | Argument,
    take: Aggregate = "last",
    over: int = 1,
    against: Reference = "value",
    *,
    by: str = "",
    absolute: bool = False,
) -> Clause:
    """The number lies above ``limit``."""
    return Clause(Signal(metric=metric, take=take, over=over, against=against, by=by, absolute=absolute), ">", limit)


def below(
    metric: str,
    limit: float | Argument,
    take: Aggregate = "last",
    over: int = 1,
    against: Reference = "value",
    *,
    by: str = "",
    absolute: bool = False,
) -> Clause:
    """The number lies below ``limit``."""
    return Clause(Signal(metric=metric, take=take, over=over, against=against, by=by, absolute=absolute), "<", limit)


def times(metric: str, factor: float, over: int = 5, *, absolute: bool = False) -> Clause:
    """The mean of the last values is more than ``factor`` times what was usual before."""
    return above(metric, factor, "mean", over, "baseline", absolute=absolute)


def every_above(metric: str, factor: float, over: int) -> Clause:
    """Each of the last values is more than ``factor`` times what was usual before: single values far out, as small
    batches have them, do not make that true."""
    return above(metric, factor, "min", over, "baseline")


def every_below(metric: str, factor: float, over: int) -> Clause:
    """Each of the last values is less than ``factor`` times what was usual before."""
    return below(metric, factor, "max", over, "baseline")


def fallen(metric: str, share: float, over: int = 10) -> Clause:
    """The mean of the last values has lost more than ``share`` of the range that the metric has covered."""
    return above(metric, share, "drawdown", over)


def at_its_best(metric: str, share: float = 0.15, over: int = 10) -> Clause:
    """The mean of the last values is within ``share`` of the best there was."""
    return below(metric, share, "drawdown", over)


def now_times(metric: str, factor: float) -> Clause:
    """The last value is more than ``factor`` times what was usual before; with 4 of 6, single spikes do not count."""
    return above(metric, factor, "last", 1, "baseline")


def now_below(metric: str, factor: float, against: Reference = "baseline") -> Clause:
    """The last value is less than ``factor`` times what was usual before."""
    return below(metric, factor, "last", 1, against)


def zeros(metric: str, over: int, within: float = 0.0) -> tuple[Clause, Clause]:
    """All of the last values are 0, up to rounding ``within``. The last one is asked first: that costs next to nothing
    as long as it is not."""
    last = Clause(Signal(metric=metric), "<=", within)
    return last, Clause(Signal(metric=metric, take="max", over=over, absolute=True), "<=", within)


def flags_in(text: str) -> tuple[str, ...]:
    """The options of OpenRLHF that a remedy names, each once, in its order."""
    return tuple(dict.fromkeys(_FLAG.findall(text)))
