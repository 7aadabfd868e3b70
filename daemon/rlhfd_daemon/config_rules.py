"""The configuration section of the rules: files of one's own, other limits, and what is to be silent."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = ["RuleOverride", "RulesConfig", "RunRules"]

_Hold = Annotated[str, Meta(pattern=r"^\s*[0-9]{1,3}\s*(of\s*[0-9]{1,3}\s*)?$")]


class RuleOverride(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be different about a rule. ``limit`` is that of its first condition, ``critical`` the one at which it
    is critical; ``hold`` is ``3`` (in a row) or ``"3 of 5"``."""

    enabled: bool | None = None
    limit: float | None = None
    critical: float | None = None
    severity: Literal["info", "warning", "critical"] | None = None
    hold: Annotated[int, Meta(ge=1, le=500)] | _Hold | None = None


class RunRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same for the runs whose name matches a pattern."""

    mute: tuple[str, ...] = ()
    override: dict[str, RuleOverride] = {}


class RulesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``files`` hold rules of one's own (docs/rules-user.md); a relative path starts where the configuration file is.
    ``mute`` are glob patterns of rule ids. ``runs`` are by glob patterns of run names; where several match, later ones
    win. ``built_in`` false: only the rules in ``files``."""

    enabled: bool = True
    built_in: bool = True
    files: tuple[str, ...] = ()
    mute: tuple[str, ...] = ()
    override: dict[str, RuleOverride] = {}
    runs: dict[str, RunRules] = {}
