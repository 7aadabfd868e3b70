"""`rlhfd check` without its output: a log of any format through the pipeline that live frames go through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rlhfd_alerts.alert import AlertState, Transition
from rlhfd_alerts.canonical import spell
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_daemon.analyzers import build
from rlhfd_daemon.analyzers.trends import Trends
from rlhfd_daemon.config import AnalyzersConfig
from rlhfd_daemon.derive import derived_names
from rlhfd_daemon.errors import DaemonError, TraceError
from rlhfd_daemon.frame import MAX_METRICS, VERSION, Frame
from rlhfd_daemon.pipeline import Pipeline
from rlhfd_daemon.replay import play
from rlhfd_daemon.rules.unchecked import Unchecked
from rlhfd_daemon.runs import DAEMON_ROLE
from rlhfd_daemon.sample import Sample
from rlhfd_daemon.traces import Damaged, FrameTrace, Naming, Row, RowTrace, find
from rlhfd_daemon.traces.frames import records

__all__ = ["Check", "alert_of"]

CLEAN, WARNINGS, CRITICAL = 0, 1, 2
ROLE, BOOT = "PPOTrainer", "check"
MAX_NAME = 128  # as in a frame
MAX_COUNTED = 20_000


@dataclass
class Coverage:
    """A sink that counts what was read: ``steps`` are those beyond all before, ``metrics`` the names seen, ``runs``
    the launches of runs."""

    steps: int = 0
    last_step: int | None = None
    metrics: set[str] = field(default_factory=set)
    runs: dict[tuple[str, str], None] = field(default_factory=dict)

    def take(self, frame: Frame, samples: Sequence[Sample]) -> None:
        if frame.role == DAEMON_ROLE or not frame.metrics:
            return
        if frame.step is not None and (self.last_step is None or frame.step > self.last_step):
            self.steps, self.last_step = self.steps + 1, frame.step
        if len(self.metrics) < MAX_COUNTED:
            self.metrics.update(frame.metrics)
            self.runs[frame.run, frame.boot] = None


class Check:
    """One log, checked once. ``has_times`` is false where the log does not say when; then its steps are the seconds."""

    def __init__(
        self,
        path: Path,
        analyzers: AnalyzersConfig,
        damaged: Callable[[Damaged], None] = lambda _damaged: None,
        trends: Trends | None = None,
    ) -> None:
        """``trends`` get all samples, too.

        :raises TraceError: no log that can be read is at ``path``.
        """
        self.trace = find(path)
        self.coverage = Coverage()
        self.damages = 0
        self.has_times = isinstance(self.trace, FrameTrace)
        self.naming = Naming()
        self._damaged = damaged
        self._worst: Severity | None = None
        self._trends = trends
        sinks = (self.coverage,) if trends is None else (self.coverage, trends)
        self._pipeline = Pipeline(build(analyzers), Lifecycle(), sinks)

    @property
    def exit_code(self) -> int:
        """0 clean, 1 warnings, 2 critical; by the worst alert that fired, over or not."""
        if self._worst is None or self._worst is Severity.INFO:
            return CLEAN
        return CRITICAL if self._worst is Severity.CRITICAL else WARNINGS

    def transitions(self) -> Iterator[Transition]:
        """Every alert that begins, becomes worse or ends, in the log's order.

        :raises TraceError: the log holds not one metric.
        """
        decided = self._of_rows(self.trace) if isinstance(self.trace, RowTrace) else self._of_frames(self.trace)
        for transitions in decided:
            for one in transitions:
                severity = one.alert.finding.severity
                if one.state is AlertState.FIRING and (self._worst is None or severity.rank > self._worst.rank):
                    self._worst = severity
                yield one
        if not self.coverage.metrics:
            raise TraceError(f"{self.trace.path}: no metric in it{self._skipped()}; read as {self.format_name}")

    def unchecked(self) -> list[Unchecked]:
        """The rules that could not be looked at in any of the log's runs, with the reason; to be asked at the end."""
        runs = [{one.rule: one for one in self._pipeline.unchecked(*run)} for run in self.coverage.runs]
        return [one for rule, one in runs[0].items() if all(rule in run for run in runs)] if runs else []

    @property
    def format_name(self) -> str:
        """What the log was read as."""
        return self.trace.format.name if isinstance(self.trace, RowTrace) else "frame log"

    def _of_rows(self, trace: RowTrace) -> Iterator[list[Transition]]:
        feed = Feed(self._pipeline, self.naming, run=trace.path.name or "check")
        for row in trace.rows(self._count):
            self.has_times = self.has_times or row.time is not None
            if self._trends is not None:
                self._trends.epoch = row.epoch
            yield feed.take(row)

    def _of_frames(self, trace: FrameTrace) -> Iterator[list[Transition]]:
        def report(damage: object) -> None:
            self._count(Damaged(str(trace.path), str(damage)))

        try:
            yield from play(trace.path, records(trace.path), self._pipeline, report)
        except TraceError:
            raise
        except DaemonError as error:
            raise TraceError(str(error)) from error

    def _count(self, damage: Damaged) -> None:
        self.damages += 1
        self._damaged(damage)

    def _skipped(self) -> str:
        return f" ({self.damages} damaged places were skipped)" if self.damages else ""


class Feed:
    """Makes of each row the frames that the trainer's emitter would have sent, and gives them to the pipeline."""

    def __init__(self, pipeline: Pipeline, naming: Naming, run: str) -> None:
        self._pipeline = pipeline
        self._naming = naming
        self._run = run[:MAX_NAME]
        self._rows = 0
        self._frames = 0
        self._has_steps = False
        self._step: int | None = None
        self._time = 0.0

    def take(self, row: Row) -> list[Transition]:
        """What the row decides. In a log without steps they are counted; a row without one belongs to that before."""
        self._rows += 1
        self._has_steps = self._has_steps or row.step is not None
        if row.step is not None or not self._has_steps:
            self._step = self._rows if row.step is None else row.step
        # Time goes on, also where a resumed run's steps or another node's clock go back.
        now = row.time if row.time is not None else float(self._step or 0)
        self._time = max(self._time, now)
        named = self._naming.canonical(row.metrics)
        # rlhfd's own step files hold the ratios that the pipeline derives once more.
        derived = derived_names(named)
        metrics = iter([one for one in named.items() if 0 < len(one[0]) <= MAX_NAME and one[0] not in derived])
        decided: list[Transition] = []
        while part := dict(islice(metrics, MAX_METRICS)):
            decided += self._observe(part)
        return decided

    def _observe(self, metrics: Mapping[str, float]) -> list[Transition]:
        self._frames += 1
        time_ns = round(self._time * 1e9)
        frame = Frame(
            v=VERSION,
            run=self._run,
            boot=BOOT,
            role=ROLE,
            stream=BOOT,
            pid=0,
            seq=self._frames,
            time_ns=time_ns,
            mono_ns=time_ns,
            kind="metrics",
            rank=0,
            step=self._step,
            metrics=dict(metrics),
        )
        return self._pipeline.observe(frame, time_ns, self._frames)


def alert_of(transition: Transition, has_times: bool) -> dict[str, object]:
    """The object of one line of `--json`; numbers that are not finite are the texts NaN, Infinity and -Infinity."""
    alert, finding = transition.alert, transition.alert.finding
    return {
        "kind": "alert",
        "state": transition.state.value,
        "step": alert.last_step,
        "time": transition.time if has_times else None,
        "rule": finding.rule,
        "family": finding.family,
        "severity": finding.severity.value,
        "metric": finding.metric,
        "value": spell(alert.last_value),
        "episode": finding.episode,
        "onset_step": finding.onset_step,
        "summary": finding.summary,
        "remedy": finding.remedy,
    }
