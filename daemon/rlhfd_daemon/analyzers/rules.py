"""The rules of the catalogue and of the user, looked at whenever a value of their first metric comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rlhfd_alerts.finding import Finding
from rlhfd_daemon.analyzers.dispatch import Watch
from rlhfd_daemon.analyzers.series import MAX_SERIES
from rlhfd_daemon.config_rules import RulesConfig
from rlhfd_daemon.rules.rule import Rule
from rlhfd_daemon.rules.selection import Selection
from rlhfd_daemon.rules.unchecked import Unchecked, unchecked
from rlhfd_daemon.rules.watching import Context, Run, Series
from rlhfd_daemon.sample import Happening, Sample

__all__ = ["RuleAnalyzer", "Unchecked", "build"]

try:
    from rlhfd_daemon.rules.catalogue import CATALOGUE
except ImportError:
    CATALOGUE = ()
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
        series = None if run is None else self._meet(run, first)
        return None if series is None else series.observe

    def observe(self, sample: Sample) -> Iterable[Finding]:
        run = self._runs.get((sample.run, sample.boot))
        if run is not None:
            key = (sample.role, sample.rank, sample.name)
            series = run.series[key] if key in run.series else self._meet(run, sample)
            return () if series is None else series.observe(sample)
        watch = self.watch(sample)
        return () if watch is None else watch(sample)

    def happened(self, event: Happening) -> Iterable[Finding]:
        run = self._run(event.run, event.boot)
        if run is not None:
            run.take(event)
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        gone = self._runs.pop((run, boot), None)
        self._count -= 0 if gone is None else len(gone.series)

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
        process = run.processes.setdefault((first.role, first.rank), {})
        series = run.series[key] = None if reader is None else Series(run, reader, process)
        return series


def build(config: RulesConfig) -> RuleAnalyzer:
    """The analyzer of the built-in rules and of those in the configured files. :raises ConfigError: one is bad."""
    from rlhfd_daemon.rules.facts import Facts

    built_in = CATALOGUE if config.built_in else ()
    return RuleAnalyzer(config, built_in, Facts)
