"""Inhibition: while one alert fires, others that follow from it are not told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhfd_alerts.matchers import Matcher, matches, parse_matchers

__all__ = ["DEAD_PROCESS", "InhibitRule", "Inhibition"]


@dataclass(frozen=True, slots=True)
class InhibitRule:
    """While an alert that meets ``source`` fires, those that meet ``target`` and have the same ``equal`` labels are
    inhibited; a label that both lack is the same. An alert that meets both sides is inhibited only by alerts that do
    not, so that none inhibits itself."""

    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...] = ()


DEAD_PROCESS = InhibitRule(
    source=parse_matchers(['rule=~"actor_death|heartbeat_lost|oom_kill|gpu_lost"']),
    target=parse_matchers(['family!~"stall|system|checkpoint|action"', 'rule!="reward_failed"']),
    equal=("run", "boot"),
)
"""Built in: what the metrics of a run show while a process of it is dead, or silent, follows from that."""

_Key = tuple[str, ...]


class Inhibition:
    """Knows the firing alerts that inhibit others. Pure; what is held is bounded by what fires."""

    def __init__(self, rules: Sequence[InhibitRule]) -> None:
        self._rules = tuple(rules)
        self._sources: list[dict[_Key, dict[str, bool]]] = [{} for _ in rules]
        self._known: dict[str, list[tuple[int, _Key]]] = {}

    def fires(self, fingerprint: str, labels: Mapping[str, str]) -> None:
        """An alert fires, or has other labels than before."""
        self.ends(fingerprint)
        for number, rule in enumerate(self._rules):
            if matches(rule.source, labels):
                key = _key(rule, labels)
                self._sources[number].setdefault(key, {})[fingerprint] = matches(rule.target, labels)
                self._known.setdefault(fingerprint, []).append((number, key))

    def ends(self, fingerprint: str) -> None:
        """An alert does not fire any more."""
        for number, key in self._known.pop(fingerprint, ()):
            sources = self._sources[number][key]
            del sources[fingerprint]
            if not sources:
                del self._sources[number][key]

    def inhibiting(self, labels: Mapping[str, str]) -> str | None:
        """Return the fingerprint of an alert because of which one with ``labels`` is inhibited; ``None`` if none."""
        for number, rule in enumerate(self._rules):
            sources = self._sources[number].get(_key(rule, labels))
            if not sources or not matches(rule.target, labels):
                continue
            is_both = matches(rule.source, labels)
            found = next((one for one, source_is_both in sources.items() if not (is_both and source_is_both)), None)
            if found is not None:
                return found
        return None


def _key(rule: InhibitRule, labels: Mapping[str, str]) -> _Key:
    return tuple(labels.get(name, "") for name in rule.equal)
