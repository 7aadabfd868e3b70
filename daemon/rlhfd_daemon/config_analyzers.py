"""The configuration sections of the analyzers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["AnalyzersConfig", "IncidentsConfig", "NonFiniteConfig", "RobustZConfig"]

_Count = Annotated[int, Meta(ge=1)]
_Threshold = Annotated[float, Meta(gt=0, le=1e9)]  # the upper end also keeps out TOML's inf and nan


class NonFiniteConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``clear_after``: finite values in a row that end the alert."""

    enabled: bool = True
    clear_after: _Count = 5


class RobustZConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``window`` and ``min_history`` in values, ``threshold`` in robust standard deviations, ``consecutive`` values
    outside in a row make an alert; ``ignore`` are glob patterns of metric names."""

    enabled: bool = True
    window: Annotated[int, Meta(ge=10, le=100_000)] = 50
    min_history: Annotated[int, Meta(ge=3)] = 20
    threshold: _Threshold = 8.0
    consecutive: _Count = 3
    ignore: tuple[str, ...] = (
        "*/timing/*", "timing/*", "*_lr", "*/lr", "lr",
        "rlhfd/*", "phase/*", "vllm/*", "ray/*", "host/*", "disk/*", "gpu/*", "process/*",
    )  # fmt: skip


class IncidentsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Alerts for what happened (a dead actor, a stalled phase). ``clear_after_seconds`` ends one that has no end of
    its own, such as an OOM kill."""

    enabled: bool = True
    clear_after_seconds: Annotated[float, Meta(gt=0, le=86400)] = 600.0


class AnalyzersConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One section per analyzer."""

    non_finite: NonFiniteConfig = NonFiniteConfig()
    robust_z: RobustZConfig = RobustZConfig()
    incidents: IncidentsConfig = IncidentsConfig()
