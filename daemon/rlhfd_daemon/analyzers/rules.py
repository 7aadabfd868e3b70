"""The rules of the catalogue and of the user, looked at whenever a value of their first metric comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rlhfd_alerts.finding import Finding
from rlhfd_daemon.analyzers.dispatch import MAX_SERIES, Watch
from rlhfd_daemon.config_rules import RulesConfig
from rlhfd_daemon.rules.missing import missed
from rlhfd_daemon.rules.rule import Rule
from rlhfd_daemon.rules.selection import Selection
from rlhfd_daemon.rules.unchecked import Unchecked, unchecked
from rlhfd_daemon.rules.watching import Context, Run, Series
from rlhfd_daemon.sample import Happening, Sample

__all__ = ["RuleAnalyzer", "Unchecked"]

MAX_RUNS = 4096


class RuleAnalyzer:
    """A metric that no rule reads is met once and costs nothing from then on. Past ``MAX_SERIES`` series new ones are
    not looked at, and counted in ``refused``."""

    def __init__(self, config: RulesConfig, rules: Sequence[Rule], facts: Callable[[], Context]) -> None:
        self._selection = Selection(config, rules)
        self._facts = facts
        self._runs: dict[tuple[str, str], Run] = {}
        self._count = 0
        self.refused = 0

    def watch(self, first: Sample) -> Watch | None:
        run = self._run(first.run, first.boot)
        if run is None:
            return None
        series = self._meet(run, first)
        if series is not None:
            return series.observe
        return run.process(first).advance if run.plans.by_absence else None

    def observe(self, sample: Sample) -> Iterable[Finding]:
        run = self._runs.get((sample.run, sample.boot))
        key = (sample.role, sample.rank, sample.name)
        if run is not None and key in run.series:
            series = run.series[key]
            if series is not None:
                return series.observe(sample)
            return run.process(sample).advance(sample) if run.plans.by_absence else ()
        watch = self.watch(sample)
        return () if watch is None else watch(sample)

    def happened(self, event: Happening) -> Iterable[Finding]:
        run = self._run(event.run, event.boot)
        if run is not None:
            run.take(event)
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        found: list[Finding] = []
        for (name, boot), run in self._runs.items():
            if run.plans.by_absence:
                found += missed(run, name, boot, now)
        return found

    def forget(self, run: str, boot: str) -> None:
        gone = self._runs.pop((run, boot), None)
        self._count -= 0 if gone is None else len(gone.series)

    @property
    def runs(self) -> tuple[tuple[str, str], ...]:
        """The runs that are known, each by name and boot."""
        return tuple(self._runs)

    def unchecked(self, run: str, boot: str) -> list[Unchecked]:
        """The rules that cannot be looked at in this launch of a run, each with the reason."""
        found = self._run(run, boot)
        return [] if found is None else unchecked(found, self._selection.of(run))

    def _run(self, name: str, boot: str) -> Run | None:
        run = self._runs.get((name, boot))
        if run is None and len(self._runs) < MAX_RUNS:
            run = self._runs[name, boot] = Run(self._selection.plans(name), self._facts())
        return run

    def _meet(self, run: Run, first: Sample) -> Series | None:
        """The first sample of a series. Facts see each series once."""
        key = (first.role, first.rank, first.name)
        if key in run.series:
            return run.series[key]
        if self._count >= MAX_SERIES:
            self.refused += 1
            return None
        self._count += 1
        run.facts.see(first)
        reader = run.plans.reader(first.name)
        series = run.series[key] = None if reader is None else Series(run, first.name, reader, run.process(first))
        return series
