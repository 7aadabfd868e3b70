"""The configuration sections of the analyzers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["AdaptiveConfig", "AnalyzersConfig", "IncidentsConfig", "NonFiniteConfig"]

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


class AnalyzersConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One section per analyzer."""

    non_finite: NonFiniteConfig = NonFiniteConfig()
    adaptive: AdaptiveConfig = AdaptiveConfig()
    incidents: IncidentsConfig = IncidentsConfig()
