"""The configuration sections of the analyzers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from rlhfd_daemon.config_rules import RulesConfig
from rlhfd_daemon.errors import Problem

__all__ = [
    "AbsenceConfig", "AdaptiveConfig", "AnalyzersConfig", "ForecastConfig", "IncidentsConfig", "NonFiniteConfig",
    "RewardConfig", "forecast_faults",
]  # fmt: skip

_Count = Annotated[int, Meta(ge=1)]


class NonFiniteConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``clear_after``: finite values in a row that end the alert."""

    enabled: bool = True
    clear_after: _Count = 5


class AdaptiveConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metrics against their own past. ``ignore`` are glob patterns of metric names that are left alone."""

    enabled: bool = True
    ignore: tuple[str, ...] = ()


class IncidentsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Alerts for what happened (a dead actor, a stalled phase). ``clear_after_seconds`` ends one that has no end of
    its own, such as an OOM kill."""

    enabled: bool = True
    clear_after_seconds: Annotated[float, Meta(gt=0, le=86400)] = 600.0


class AbsenceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric that came with nearly every step, at least ``min_history`` times, is missing after ``missing_steps``
    steps without it. One that varied in nearly all of ``frozen_history`` values or more is frozen after
    ``frozen_steps`` equal ones, unless it is named in ``constant``. Checkpoints are overdue by more than
    ``checkpoint_intervals`` of their intervals. ``ignore`` and ``constant`` are glob patterns of metric names."""

    enabled: bool = True
    missing_steps: Annotated[int, Meta(ge=2, le=50)] = 3
    min_history: Annotated[int, Meta(ge=5)] = 20
    frozen_steps: Annotated[int, Meta(ge=5)] = 20
    frozen_history: Annotated[int, Meta(ge=10)] = 30
    checkpoint_intervals: _Count = 2
    ignore: tuple[str, ...] = (
        "rlhfd/*", "phase/*", "eval/*", "vllm/*", "ray/*", "host/*", "gpu/*", "disk/*", "process/*", "cgroup/*",
    )  # fmt: skip
    constant: tuple[str, ...] = (
        "*_lr", "*/lr", "lr", "*learning_rate*", "*_coef", "*coefficient*", "*_total", "*_count", "*_limit*",
        "*capacity*", "*epoch*",
    )  # fmt: skip


class ForecastConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Memory or a disk that will be used up within ``warning_minutes`` (``critical_minutes``) at the rate of the last
    ``min_minutes`` or more, seen in ``min_values`` values or more, while less than ``left_ratio`` of it is left.
    Responses longer than ``length_ratio`` of their cap that will reach it within ``length_steps``, entropy that will
    reach ``entropy_floor`` (nats) within ``entropy_steps``."""

    enabled: bool = True
    warning_minutes: Annotated[float, Meta(gt=0, le=1440)] = 30.0
    critical_minutes: Annotated[float, Meta(gt=0, le=1440)] = 10.0
    min_minutes: Annotated[float, Meta(ge=1, le=10)] = 5.0
    min_values: Annotated[int, Meta(ge=16, le=100)] = 20
    left_ratio: Annotated[float, Meta(gt=0, le=1)] = 0.3
    length_ratio: Annotated[float, Meta(gt=0, lt=1)] = 0.8
    length_steps: _Count = 50
    entropy_floor: Annotated[float, Meta(ge=0, le=100)] = 0.02
    entropy_steps: _Count = 20


def forecast_faults(forecast: ForecastConfig) -> list[Problem]:
    """What would make a prediction critical before it is a warning."""
    critical, warning = forecast.critical_minutes, forecast.warning_minutes
    if critical <= warning:
        return []
    hint = f"must be at most warning_minutes ({warning:g}); lower it, or set warning_minutes to {critical:g} or more"
    return [Problem("analyzers.forecast.critical_minutes", hint)]


class RewardConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rewards of single answers, ``window_samples`` (or the steps that hold so many) together. They are looked at
    whenever half of them are new; what was found is over when ``clear_after`` looks have not shown it."""

    enabled: bool = True
    window_samples: Annotated[int, Meta(ge=64, le=8192)] = 256
    clear_after: _Count = 10


class AnalyzersConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One section per analyzer."""

    non_finite: NonFiniteConfig = NonFiniteConfig()
    adaptive: AdaptiveConfig = AdaptiveConfig()
    incidents: IncidentsConfig = IncidentsConfig()
    absence: AbsenceConfig = AbsenceConfig()
    forecast: ForecastConfig = ForecastConfig()
    reward: RewardConfig = RewardConfig()
    rules: RulesConfig = RulesConfig()
