"""Values in the table's units: what an OpenRLHF version logs in another unit, or as 0 where it does not know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from rlhfd_daemon.metrics.metric import release
from rlhfd_daemon.metrics.table import lookup

__all__ = ["RunContext", "normalise"]

NO_REFERENCE_MODEL_SINCE = (0, 6)  # before, it was loaded whatever the coefficient
PASS_RATE_TIMES_SAMPLES_SINCE = (0, 9, 9)
MULTI_TURN_TRUNCATION_SINCE = (0, 11, 1)


@dataclass(frozen=True)
class RunContext:
    """What explains a run's numbers: OpenRLHF's ``version``, its ``args`` by dotted name as in the ``run_start`` event
    (flat names before 0.10.2), and the ``trainer`` class. ``None`` and missing names are unknown."""

    version: str | None = None
    args: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    trainer: str | None = None

    def number(self, *names: str) -> float | None:
        """The first of these arguments that is set and a number."""
        found = self.argument(*names)
        return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None

    def argument(self, *names: str) -> object:
        """The first of these arguments that is set; ``None`` if none is."""
        return next((self.args[name] for name in names if self.args.get(name) is not None), None)


def normalise(key: str, value: float, context: RunContext) -> float | None:
    """``value`` of an OpenRLHF ``key`` in the unit of its row in the table; ``None`` if it says nothing.

    A key that is in no row, or has no trap, comes back as it is. Never raises.
    """
    metric = lookup(key)
    trap = None if metric is None else _TRAPS.get(metric.name)
    return value if trap is None else trap(value, context)


def _pass_rate(value: float, context: RunContext) -> float | None:
    version = release(context.version)
    if version is None:
        return None
    if version < PASS_RATE_TIMES_SAMPLES_SINCE:
        return value / 100
    samples = context.number("rollout.n_samples_per_prompt", "n_samples_per_prompt")
    return value / 100 / samples if samples is not None and samples > 0 else None


def _against_reference(value: float, context: RunContext) -> float | None:
    """0 is what OpenRLHF logs when there is no reference model to compare with."""
    coefficient = context.number("algo.kl.init_coef", "init_kl_coef")
    version = release(context.version)
    always_loaded = version is not None and version < NO_REFERENCE_MODEL_SINCE
    return None if coefficient is not None and coefficient <= 0 and not always_loaded else value


def _truncation(value: float, context: RunContext) -> float | None:
    """0 is what a multi-turn agent logs that was never asked how its generations ended.

    An agent file may also hold a single-turn executor, which does know; the arguments do not tell the two apart.
    """
    agent = context.argument("train.agent_func_path", "agent_func_path")
    version = release(context.version)
    says = version is not None and version >= MULTI_TURN_TRUNCATION_SINCE
    return None if agent and not says else value


_TRAPS: Mapping[str, Callable[[float, RunContext], float | None]] = {
    "train/dynamic_filtering_pass_rate": _pass_rate,
    "train/kl": _against_reference,
    "train/logprobs_diff": _against_reference,
    "train/truncated": _truncation,
    "train/rollout/truncated_rate": _truncation,
    "eval/eval_truncated_rate": _truncation,
    "eval/eval_<datasource>_truncated_rate": _truncation,
}
