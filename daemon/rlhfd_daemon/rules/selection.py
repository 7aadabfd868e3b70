"""Which rules look at a run, and with which limits: the table, changed as the configuration says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from msgspec.structs import replace

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.config_rules import RuleOverride, RulesConfig
from rlhfd_daemon.rules.plan import Plans
from rlhfd_daemon.rules.rule import Rule

__all__ = ["MAX_HOLD", "Selection", "hold_of"]

MAX_HOLD = 500
_HOLD = re.compile(r"\s*(\d{1,3})\s*(?:of\s*(\d{1,3})\s*)?", re.ASCII)


class Selection:
    """The rules of each run."""

    def __init__(self, config: RulesConfig, rules: Sequence[Rule]) -> None:
        self._config = config
        self._rules = tuple(rules)
        self._plans = lru_cache(maxsize=64)(self._compiled)

    def plans(self, run: str) -> Plans:
        """The rules that look at ``run``, made ready. Runs with the same rules share them."""
        return self._plans(self._patterns(run), frozenset(rule.id for rule in self._rules if _is_for(rule, run)))

    def of(self, run: str) -> list[tuple[Rule, str]]:
        """All rules, each with the reason why it does not look at ``run`` (empty: it does)."""
        selected = self._selected(self._patterns(run))
        return [(rule, reason or ("" if _is_for(rule, run) else "not meant for this run")) for rule, reason in selected]

    def _patterns(self, run: str) -> tuple[str, ...]:
        return tuple(pattern for pattern in self._config.runs if fnmatchcase(run, pattern))

    def _compiled(self, patterns: tuple[str, ...], ids: frozenset[str]) -> Plans:
        return Plans(rule for rule, reason in self._selected(patterns) if not reason and rule.id in ids)

    def _selected(self, patterns: tuple[str, ...]) -> list[tuple[Rule, str]]:
        config = self._config
        sections = [config.runs[pattern] for pattern in patterns]
        mutes = [*config.mute, *(mute for section in sections for mute in section.mute)]
        overrides = [config.override, *(section.override for section in sections)]
        found = []
        for rule in self._rules:
            override = [one[rule.id] for one in overrides if rule.id in one]
            enabled = next((one.enabled for one in reversed(override) if one.enabled is not None), None)
            is_muted = enabled is None and any(fnmatchcase(rule.id, mute) for mute in mutes)
            reason = "switched off in the configuration" if enabled is False else "muted in the configuration"
            found.append((_changed(rule, override), reason if enabled is False or is_muted else ""))
        return found


def _is_for(rule: Rule, run: str) -> bool:
    return not rule.runs or any(fnmatchcase(run, pattern) for pattern in rule.runs)


def _changed(rule: Rule, overrides: Iterable[RuleOverride]) -> Rule:
    for one in overrides:
        if one.limit is not None and rule.when:
            rule = replace(rule, when=(replace(rule.when[0], limit=one.limit), *rule.when[1:]))
        if one.critical is not None:
            rule = replace(rule, critical=one.critical)
        if one.severity is not None:
            # The severity that was asked for, not one that the rule would rise to.
            rule = replace(rule, severity=Severity(one.severity), critical=one.critical)
        if one.hold is not None:
            rule = replace(rule, hold=hold_of(one.hold) or rule.hold)
    return rule


def hold_of(value: object) -> tuple[int, int] | None:
    """``3`` or ``"3"``: three looks in a row; ``"3 of 5"``: three of the last five; ``None``: neither."""
    found = _HOLD.fullmatch(str(value)) if isinstance(value, (int, str)) and not isinstance(value, bool) else None
    if found is None:
        return None
    k = int(found.group(1))
    n = int(found.group(2) or k)
    return (k, n) if 1 <= k <= n <= MAX_HOLD else None
