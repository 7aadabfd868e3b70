"""What rules would have said: of series made up for a test, or of the log of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rlhfd_alerts.alert import Transition
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_daemon.analyzers.rules import RuleAnalyzer
from rlhfd_daemon.check import BOOT, ROLE, Feed
from rlhfd_daemon.config_rules import RulesConfig
from rlhfd_daemon.pipeline import Pipeline
from rlhfd_daemon.replay import play
from rlhfd_daemon.rules.facts import Facts
from rlhfd_daemon.rules.rule import Rule
from rlhfd_daemon.rules.unchecked import Unchecked
from rlhfd_daemon.rules.user_tests import Expectation, RuleTest
from rlhfd_daemon.sample import Happening
from rlhfd_daemon.traces import Naming, Row, RowTrace, find
from rlhfd_daemon.traces.frames import records

__all__ = ["Trial", "failures"]

RUN = "test"
BARE = "test/step"  # a step without a value is a step, too


class Trial:
    """Rules, and nothing else, in the pipeline that live frames go through."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._analyzer = RuleAnalyzer(RulesConfig(), rules, Facts)
        self._pipeline = Pipeline([self._analyzer], Lifecycle())

    def of_test(self, test: RuleTest, folder: Path) -> list[Transition]:
        """What follows from a test's series, or from its log. :raises TraceError: the log cannot be read."""
        if test.trace:
            return list(self.of_trace(folder / test.trace))
        self._analyzer.happened(_started(test.args))
        return list(self._fed(RUN, _rows(test.series)))

    def of_trace(self, path: Path) -> Iterator[Transition]:
        """What follows from the log at ``path``. :raises TraceError: it cannot be read."""
        trace = find(path)
        if isinstance(trace, RowTrace):
            yield from self._fed(path.name, trace.rows(lambda _damaged: None))
            return
        for transitions in play(path, records(trace.path), self._pipeline, lambda _damage: None):
            yield from transitions

    def unchecked(self) -> list[Unchecked]:
        """The rules that could not be looked at, in any of the runs that have been seen."""
        found = [self._analyzer.unchecked(run, boot) for run, boot in self._analyzer.runs]
        common = set.intersection(*({one.rule for one in some} for some in found)) if found else set()
        return [one for one in (found[0] if found else ()) if one.rule in common]

    def _fed(self, run: str, rows: Iterable[Row]) -> Iterator[Transition]:
        feed = Feed(self._pipeline, Naming(), run=run)
        for row in rows:
            yield from feed.take(row)


def failures(test: RuleTest, transitions: Sequence[Transition]) -> list[str]:
    """What a test expected in vain, and what it did not want to see; one line each."""
    found = []
    for expected in test.expect:
        same = [one for one in transitions if one.alert.finding.rule == expected.rule]
        if not any(_meets(one, expected) for one in same):
            found.append(f"expected {expected}; it {_told(same)}")
    for rule in test.absent:
        same = [one for one in transitions if one.alert.finding.rule == rule]
        if same:
            found.append(f"expected {rule} to be silent; it {_told(same)}")
    return found


def _meets(one: Transition, expected: Expectation) -> bool:
    finding = one.alert.finding
    return (
        one.state.value == expected.state
        and expected.step in (None, one.alert.last_step)
        and expected.onset_step in (None, finding.onset_step)
        and expected.severity in (None, finding.severity.value)
    )


def _told(transitions: Sequence[Transition]) -> str:
    if not transitions:
        return "never fires"
    told = []
    for one in transitions[:4]:
        finding = one.alert.finding
        since = f" since step {finding.onset_step}" if one.state.value == "firing" else ""
        told.append(f"is {one.state.value} at step {one.alert.last_step} ({finding.severity.value}{since})")
    return ", ".join(told) + (", ..." if len(transitions) > len(told) else "")


def _rows(series: dict[str, list[float | None]]) -> Iterator[Row]:
    for step, values in enumerate(zip_longest(*series.values()), 1):
        metrics = {name: value for name, value in zip(series, values, strict=True) if value is not None}
        yield Row(step, None, metrics or {BARE: float(step)})


def _started(args: dict[str, Any]) -> Happening:
    return Happening(RUN, BOOT, ROLE, 0, None, "run_start", {"args": args}, 0.0, 0)
