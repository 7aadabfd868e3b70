"""Which findings have one cause: what joins an episode, what opens one again, and what probably came first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from rlhfd_alerts.alert import Alert
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.families import family_of

__all__ = ["Explains", "Moment", "Outline", "Span", "Tie", "Topics", "causal_order", "is_grave", "onset", "rank", "tie"]

WINDOW_STEPS, WINDOW_SECONDS = 30, 300.0
# For what is of one family, or explains the other: a metric that has been infinite all week must not keep to itself
# that the loss became NaN today.
RELATED_WINDOWS = 10
AGAIN_STEPS, AGAIN_SECONDS = 50, 600.0

Explains = Callable[[str], Collection[str]]
"""The rules whose findings usually follow from those of a rule."""

# Causes before effects. What is not known here comes last.
_PRIORITIES = (
    ("nonfinite",), ("data",), ("schedule",), ("system", "stall"), ("mismatch",), ("gradient",), ("clip",), ("kl",),
    ("reward",), ("entropy",), ("value",), ("advantage",), ("length",), ("hacking",), ("throughput",), ("checkpoint",),
)  # fmt: skip
_PRIORITY = {family: index for index, families in enumerate(_PRIORITIES) for family in families}
_FLOW = ("data", "length", "reward", "advantage", "kl", "entropy", "mismatch", "value", "custom", "clip", "gradient")
_TOGETHER = 1.0  # steps, or seconds
_COMPUTED = "rlhfd/"
_GENERIC = frozenset({"level_change", "trend_change", "spikes", "spread_change"})  # of any metric: they explain little
_MIXED = frozenset({"system", "custom"})  # families whose members need not have anything to do with each other


class Moment(NamedTuple):
    """Unix seconds, and the step where there is one."""

    time: float
    step: int | None


class Tie(IntEnum):
    """How strongly a finding belongs to an episode, in rising order."""

    NONE = 0
    AGAIN = 1  # related to what ended a little while ago
    CLOSE = 2  # at about the same time
    RELATED = 3  # to what is still wrong: same metric or, not too late, same family or one explains the other
    SAME = 4  # the same rule on the same metric


@dataclass
class Span:
    """From the first onset of some findings to the last, and when the last of them was found; ``None``: never."""

    first_time: float | None = None
    last_time: float | None = None
    found_time: float | None = None
    first_step: int | None = None
    last_step: int | None = None
    found_step: int | None = None

    def add(self, onset: Moment, found: Moment) -> None:
        """Extend it; the order in which findings are added makes no difference."""
        self.first_time = onset.time if self.first_time is None else min(self.first_time, onset.time)
        self.last_time = onset.time if self.last_time is None else max(self.last_time, onset.time)
        self.found_time = found.time if self.found_time is None else max(self.found_time, found.time)
        if onset.step is None:
            return
        step = onset.step if found.step is None else found.step
        self.first_step = onset.step if self.first_step is None else min(self.first_step, onset.step)
        self.last_step = onset.step if self.last_step is None else max(self.last_step, onset.step)
        self.found_step = step if self.found_step is None else max(self.found_step, step)

    def is_near(self, onset: Moment, found: Moment, windows: int = 1) -> bool:
        """Whether a finding began within so many windows round the onsets, or began before them and is found at about
        the same time. By steps where both sides have them, else by time."""
        if onset.step is not None and self.first_step is not None:
            edges = (self.first_step, self.last_step, self.found_step)
            found_step = onset.step if found.step is None else found.step
            return _is_near(onset.step, found_step, edges, windows * WINDOW_STEPS)
        edges_ = (self.first_time, self.last_time, self.found_time)
        return _is_near(onset.time, found.time, edges_, windows * WINDOW_SECONDS)


def _is_near(onset: float, found: float, edges: tuple[float | None, float | None, float | None], window: float) -> bool:
    first, last, latest = edges
    if first is None or last is None or latest is None:
        return False
    if onset < first - window:
        return abs(found - latest) <= window
    return onset <= last + window


class Topics:
    """What the grave findings that are active in an episode are about; countable in and out."""

    def __init__(self) -> None:
        self.metrics: Counter[str] = Counter()
        self.rules: Counter[str] = Counter()
        self.groups: Counter[str] = Counter()

    def add(self, finding: Finding) -> None:
        """Count it in."""
        self._count(finding, 1)

    def remove(self, finding: Finding) -> None:
        """Count out what was counted in."""
        self._count(finding, -1)

    def _count(self, finding: Finding, by: int) -> None:
        keys = ((self.metrics, finding.metric), (self.rules, finding.rule), (self.groups, _group(finding)))
        for counter, key in keys:
            counter[key] += by
            if not counter[key]:
                del counter[key]


@dataclass
class Outline:
    """What decides whether a finding belongs to an episode. ``members`` are its findings, also those that are over;
    ``topics`` and ``grave`` know only of those that are more than information, ``slight`` of all."""

    is_open: bool = False
    severity: Severity = Severity.INFO
    topics: Topics = field(default_factory=Topics)
    grave: Span = field(default_factory=Span)
    slight: Span = field(default_factory=Span)
    ended: Moment | None = None


def tie(finding: Finding, outline: Outline, members: Iterable[Finding], explains: Explains) -> Tie:
    """How strongly ``finding``, which has just begun, belongs to the episode of the same run that has these members.

    Information joins what is wrong, but draws nothing to it but information: it may last for the whole run.
    """
    if outline.is_open:
        return _tie_to_open(finding, outline, members, explains)
    if outline.ended is None or (not is_grave(finding) and is_grave(outline)) or not _is_soon(finding, outline.ended):
        return Tie.NONE
    known = tuple(members)
    if _is_known(finding, known):
        return Tie.SAME
    topics = Topics()
    for member in known:
        if is_grave(member):
            topics.add(member)
    is_related = finding.metric in topics.metrics or _is_related(finding, topics, explains)
    return Tie.AGAIN if is_related else Tie.NONE


def _tie_to_open(finding: Finding, outline: Outline, members: Iterable[Finding], explains: Explains) -> Tie:
    if _is_known(finding, members):
        return Tie.SAME
    if finding.metric in outline.topics.metrics:
        return Tie.RELATED
    span = outline.grave if is_grave(finding) or is_grave(outline) else outline.slight
    begun, found = onset(finding), Moment(finding.time, finding.step)
    if span.is_near(begun, found, RELATED_WINDOWS) and _is_related(finding, outline.topics, explains):
        return Tie.RELATED
    return Tie.CLOSE if span.is_near(begun, found) else Tie.NONE


def _is_known(finding: Finding, members: Iterable[Finding]) -> bool:
    return any(member.metric == finding.metric and member.rule == finding.rule for member in members)


def _is_related(finding: Finding, topics: Topics, explains: Explains) -> bool:
    if _group(finding) in topics.groups:
        return True
    if not topics.rules or finding.rule in _GENERIC:
        return False
    effects = explains(finding.rule)
    return any(rule in effects or finding.rule in explains(rule) for rule in topics.rules if rule not in _GENERIC)


def _is_soon(finding: Finding, ended: Moment) -> bool:
    steps = None if finding.step is None or ended.step is None else abs(finding.step - ended.step)
    return (steps is not None and steps <= AGAIN_STEPS) or finding.time - ended.time <= AGAIN_SECONDS


def _group(finding: Finding) -> str:
    """The family, or the rule where the family is a mixed lot. A NUL keeps the two apart."""
    return f"\0{finding.rule}" if finding.family in _MIXED else finding.family


def is_grave(subject: Finding | Outline) -> bool:
    """Whether it is more than information."""
    return subject.severity is not Severity.INFO


def onset(finding: Finding) -> Moment:
    """When its condition began."""
    return Moment(finding.onset_time, finding.onset_step)


def rank(finding: Finding) -> int:
    """The place of its family in the order of causes, the first is 0."""
    return _PRIORITY.get(finding.family, len(_PRIORITIES))


def causal_order(alerts: Collection[Alert], explains: Explains) -> tuple[Alert, ...]:
    """``alerts`` of one episode, probable causes first: by onset step (by time where one has no step).

    What began together (onsets are estimates: a step apart is together) is ordered by which rule explains which, then
    by :func:`rank`; non-finite metrics in the order in which one is computed from the other, and what rlhfd computed
    itself last.
    """
    by_step = all(_onset(alert).step is not None for alert in alerts)
    starts = _starts({_began(alert, by_step) for alert in alerts})
    rules: dict[float, set[str]] = {}
    for alert in alerts:
        rules.setdefault(starts[_began(alert, by_step)], set()).add(alert.finding.rule)

    def key(alert: Alert) -> tuple[float, bool, int, int, bool, float, str, str, str]:
        finding, start = alert.finding, starts[_began(alert, by_step)]
        follows = any(_explains(other, finding.rule, explains) for other in rules[start])
        kind = (rank(finding), _flow(finding), finding.metric.startswith(_COMPUTED))
        return (start, follows, *kind, _onset(alert).time, finding.rule, finding.metric, alert.fingerprint)

    return tuple(sorted(alerts, key=key))


def _starts(onsets: Collection[float]) -> dict[float, float]:
    """For each onset the first of those that it is together with."""
    starts: dict[float, float] = {}
    start = -math.inf
    for begun in sorted(onsets):
        start = start if begun <= start + _TOGETHER else begun
        starts[begun] = start
    return starts


def _flow(finding: Finding) -> int:
    """Where a non-finite metric is in the order of computation; nothing for other findings."""
    if finding.family != "nonfinite":
        return 0
    family = family_of(finding.metric)
    return _FLOW.index(family) if family in _FLOW else len(_FLOW)


def _onset(alert: Alert) -> Moment:
    """When the condition began first within the episode."""
    if alert.place is None:
        return onset(alert.finding)
    return Moment(alert.place.onset_time, alert.place.onset_step)


def _began(alert: Alert, by_step: bool) -> float:
    moment = _onset(alert)
    return moment.step if by_step and moment.step is not None else moment.time


def _explains(cause: str, effect: str, explains: Explains) -> bool:
    return cause != effect and effect in explains(cause) and cause not in explains(effect)
