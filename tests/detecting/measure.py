"""The figures of the benchmark: of each group of runs, with our analyzers and with others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from detecting.logs import Analyzers, Log, listened
from detecting.scoring import GENERATED_FAULTS, Alarm, Label, Verdict, apart, chance, judge
from detecting.summary import Summary, summary

__all__ = ["Found", "Measured", "compared", "heard", "measured"]

CHANCE_STEPS = 300
Found = Sequence[tuple[Label, Sequence[Alarm]]]


@dataclass(frozen=True)
class Measured:
    """One group. ``chance``: how often a fault is found, under its name, in the middle of runs that have none."""

    group: str
    chance: float
    whole: Summary
    faults: Mapping[str, Summary]
    sizes: Mapping[str, Summary]
    small_found: tuple[int, int]  # of the faults that need not be found: found, all
    verdicts: Sequence[Verdict]


def heard(logs: Sequence[Log], analyzers: Analyzers | None = None) -> Found:
    """What the analyzers say of every log; ``None``: ours."""
    return [(log.label, listened(log, analyzers)) for log in logs]


def measured(found: Found) -> Iterator[Measured]:
    """The groups, in the order of the logs."""
    for group in dict.fromkeys(label.group for label, _ in found):
        mine = [(label, alarms) for label, alarms in found if label.group == group]
        verdicts = [judge(label, alarms) for label, alarms in mine]
        healthy = [one for one in mine if one[0].fault is None and one[0].steps == CHANCE_STEPS]
        scored = [one for one in verdicts if one.label.is_scored]
        small = [one for one in verdicts if one.label.size == "small"]
        yield Measured(
            group=group,
            chance=chance(healthy, GENERATED_FAULTS, CHANCE_STEPS // 2 + 1),
            whole=summary(verdicts),
            faults=_by(verdicts, {one.label.name: one.label.fault or "" for one in scored}),
            sizes=_by(verdicts, {one.label.name: one.label.size for one in scored if one.label.size}),
            small_found=(sum(one.found for one in small), len(small)),
            verdicts=verdicts,
        )


def compared(logs: Sequence[Log], ours: Found, others: Mapping[str, Analyzers]) -> Iterator[tuple[str, Measured]]:
    """Ours and every other, once with alerts of one cause as one episode, as ours are, once with each by itself."""
    for one in measured(ours):
        yield "rlhfd", one
    for name, analyzers in others.items():
        found = heard(logs, analyzers)
        for one in measured(found):
            yield name, one
        for one in measured([(label, apart(alarms)) for label, alarms in found]):
            yield f"{name}; each alert by itself", one


def _by(verdicts: Sequence[Verdict], kinds: Mapping[str, str]) -> dict[str, Summary]:
    """A summary for each kind; ``kinds``: name of a run -> its kind."""
    return {
        kind: summary([one for one in verdicts if kinds.get(one.label.name) == kind])
        for kind in sorted(set(kinds.values()))
    }
