"""Rules made ready for one run: the run's own limits and mutes applied, and which rule reads which metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from rlhfd_daemon.metrics import lookup
from rlhfd_daemon.rules.evaluate import Question
from rlhfd_daemon.rules.histories import BASELINE, STALE, Drawdown, History
from rlhfd_daemon.rules.rule import Rule, Signal

__all__ = ["Plan", "Plans", "Reader", "names_match"]

MAX_NAMES = 4096


class Plan:
    """One rule, compiled. ``metric`` is what it is looked at by; ``screens`` are the clauses by which most looks can be
    answered from the newest value alone: none of ``metric`` if it must be looked at whatever the value; ``others`` are
    the other metrics that it reads."""

    __slots__ = ("metric", "others", "questions", "rule", "screens")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.metric = rule.when[0].signal.metric
        self.questions = tuple(Question(clause, self.metric) for clause in rule.when)
        can = rule.missing == "unknown"
        self.screens = tuple(one for one in self.questions if can and one.is_screen(self.metric))
        self.others = tuple(dict.fromkeys(name for one in self.questions for name in one.metrics))


class Reader:
    """What is done with one metric: the rules it is looked at for, the names by which others read it, and how much of
    it is kept."""

    __slots__ = ("_drawdowns", "_keep", "plans", "reads")

    def __init__(self, plans: Sequence[Plan], reads: Sequence[str], signals: Iterable[Signal]) -> None:
        self.plans = tuple(plans)
        self.reads = tuple(reads)
        self._keep = 0
        drawdowns = set()
        for signal in signals:
            self._keep = max(self._keep, signal.over + (BASELINE + STALE if signal.against == "baseline" else 0))
            if signal.take == "drawdown":
                drawdowns.add((signal.over, signal.absolute))
        self._drawdowns = sorted(drawdowns)

    def history(self) -> History:
        """Room for one series."""
        return History(self._keep, [Drawdown(*one) for one in self._drawdowns])


class Plans:
    """The rules of one run."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.plans = tuple(Plan(rule) for rule in rules if rule.when)
        self.by_absence = tuple(plan for plan in self.plans if plan.rule.missing != "unknown")
        self.reading = frozenset(name for plan in self.plans for name in plan.others)
        self._readers: dict[str, Reader | None] = {}

    def reader(self, metric: str) -> Reader | None:
        """What is done with ``metric``; ``None``: nothing."""
        if metric in self._readers:
            return self._readers[metric]
        found = self._make(metric)
        if len(self._readers) < MAX_NAMES:  # names come from the wire
            self._readers[metric] = found
        return found

    def _make(self, metric: str) -> Reader | None:
        plans = [plan for plan in self.plans if names_match(plan.metric, metric)]
        reads = sorted(name for name in self.reading if names_match(name, metric))
        if not plans and not reads:
            return None
        clauses = (clause for plan in self.plans for clause in plan.rule.when)
        return Reader(plans, reads, [one.signal for one in clauses if names_match(one.signal.metric, metric)])


def names_match(pattern: str, metric: str) -> bool:
    """Whether a rule's metric means ``metric``: literally, by a name of the table with placeholders, or by glob."""
    if pattern == metric:
        return True
    if "<" in pattern:
        row = lookup(metric)
        return row is not None and row.name == pattern
    return ("*" in pattern or "?" in pattern) and fnmatchcase(metric, pattern)
