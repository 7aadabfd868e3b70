"""Clauses as functions: compiled once per rule, asked at every look. Three-valued: true, false, unknown (``None``)."""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import inf, isfinite, nan
from typing import Protocol

from rlhfd_daemon.rules.histories import AGGREGATES, STALE, History
from rlhfd_daemon.rules.rule import Argument, Clause, Operator, Signal

__all__ = ["COMPARE", "Question", "Scope", "screen"]

Compare = Callable[[float, float], bool]
Number = Callable[["Scope"], "float | None"]
COMPARE: dict[Operator, Compare] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


class Scope(Protocol):
    """Where a rule is looked at: one series of its first metric, with the run around it."""

    @property
    def history(self) -> History:
        """The series of the first clause's metric."""
        ...

    def other(self, metric: str) -> History | None:
        """The series of another metric of the run; ``None`` if there is none that fits."""
        ...

    def argument(self, argument: Argument) -> float | None:
        """A limit that follows from the run's arguments."""
        ...


class Question:
    """One clause. ``first`` is the metric that the rule is looked at by."""

    __slots__ = ("_is_argument", "_reads_first", "compare", "limit", "metrics", "number", "operator", "signal")

    def __init__(self, clause: Clause, first: str) -> None:
        signal = clause.signal
        self.signal = signal
        self.operator = clause.operator
        self.compare = COMPARE[clause.operator]
        self.limit = _limit(clause.limit)
        self.metrics = tuple(one for one in (signal.metric, signal.by) if one and one != first)
        self.number = _number(signal, first)
        self._is_argument = isinstance(clause.limit, Argument)
        self._reads_first = first in (signal.metric, signal.by)

    def is_screen(self, first: str) -> bool:
        """Whether one of the values in its window must hold by itself for the whole to hold, as with a mean beyond a
        limit; then most looks need no more than the newest value."""
        signal, operator = self.signal, self.operator
        if signal.metric != first or signal.by or signal.take not in ("last", "mean", "median", "min", "max"):
            return False
        return operator in ("<", "<=", ">", ">=") or (signal.take == "last" and signal.against == "value")

    def answer(self, scope: Scope) -> bool | None:
        """Whether it holds; ``None``: not known."""
        value = self.number(scope)
        if value is None:
            return None
        limit = self.limit(scope)
        return None if limit is None else self.compare(value, limit)

    def lacks(self, scope: Scope) -> bool:
        """Whether a value is missing, and not only enough of them."""
        others = [scope.other(name) for name in self.metrics]
        return (self._reads_first and not scope.history.is_finite) or any(
            one is None or not one.is_finite for one in others
        )

    def exceeds(self, scope: Scope, limit: float) -> bool:
        """Whether it would hold with another limit."""
        value = self.number(scope)
        return value is not None and self.compare(value, limit)

    def threshold(self, scope: Scope) -> tuple[float, float] | None:
        """What single values are compared with, and up to which count of them that is so; ``None``: not known."""
        limit, history, signal = self.limit(scope), scope.history, self.signal
        if limit is None:  # the run's arguments are not known: compared with this, nothing is true
            return (nan, history.count + STALE)
        until = inf if not self._is_argument else history.count + STALE
        if signal.against == "value":
            return (limit, until)
        reference = _reference(signal, history)
        if reference is None:
            return None
        if signal.against == "baseline":
            until = history.baseline_until(signal.over, signal.absolute)
        return (limit * reference, until)

    def baseline(self, scope: Scope) -> float | None:
        """What the number is divided by, if by anything."""
        return _reference(self.signal, scope.history)


def screen(operator: Operator, limit: float, is_absolute: bool) -> Callable[[float], bool]:
    """Whether a single value holds."""
    if is_absolute:
        compare = COMPARE[operator]
        return lambda value: compare(abs(value), limit)
    # Its own comparisons, mirrored: they cost half of what a function of ours would.
    mirrored: dict[Operator, Callable[[float], bool]] = {
        "<": limit.__gt__, "<=": limit.__ge__, ">": limit.__lt__, ">=": limit.__le__, "==": limit.__eq__,
        "!=": limit.__ne__,
    }  # fmt: skip
    return mirrored[operator]


def _limit(limit: float | Argument) -> Number:
    if isinstance(limit, Argument):
        return lambda scope: scope.argument(limit)
    bound = float(limit)
    return lambda _scope: bound


def _number(signal: Signal, first: str) -> Number:
    measure = _measure(signal)
    is_own = signal.metric == first

    def number(scope: Scope) -> float | None:
        history = scope.history if is_own else scope.other(signal.metric)
        if history is None or not history.is_finite:
            return None
        value = measure(history)
        if value is not None and signal.against != "value":
            reference = _reference(signal, history)
            value = None if reference is None else value / reference
        if value is not None and signal.by:
            factor = scope.history if signal.by == first else scope.other(signal.by)
            value = value * factor.values[-1] if factor is not None and factor.is_finite else None
        return value if value is not None and isfinite(value) else None

    return number


def _reference(signal: Signal, history: History) -> float | None:
    if signal.against == "value":
        return None
    if signal.against == "first":
        found = history.first_absolute if signal.absolute else history.first
    else:
        found = history.baseline(signal.over, signal.absolute)
    return found if found is not None and found > 0 else None


def _measure(signal: Signal) -> Callable[[History], float | None]:
    over, is_absolute, take = signal.over, signal.absolute, signal.take
    if take == "last":
        return (lambda history: abs(history.values[-1])) if is_absolute else (lambda history: history.values[-1])
    if take == "drawdown":
        return lambda history: next(
            (one.value for one in history.drawdowns if one.over == over and one.is_absolute == is_absolute), None
        )
    statistic = AGGREGATES[take]

    def measure(history: History) -> float | None:
        values = history.values[-over:]
        if len(values) < over:
            return None
        return statistic([abs(value) for value in values] if is_absolute else values, history.steps[-over:])

    return measure
