"""From frame to transition, without clock, socket or disk: the daemon, its restart and `replay` all go through here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rlhfd_alerts.alert import Alert, Transition
from rlhfd_alerts.finding import Finding
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_daemon.analyzers.dispatch import Analyzer, Dispatch
from rlhfd_daemon.analyzers.rules import RuleAnalyzer
from rlhfd_daemon.episodes import Episodes
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.instances import Instances
from rlhfd_daemon.interpret import Interpreter
from rlhfd_daemon.rules.catalogue import explains
from rlhfd_daemon.rules.unchecked import Unchecked
from rlhfd_daemon.sample import Happening, Sample

__all__ = ["Pipeline", "Sink"]

TICK_NS = 1_000_000_000


class Sink(Protocol):
    """Gets every recorded frame with its samples, also those a restart reads again. In the daemon's loop: no I/O."""

    def take(self, frame: Frame, samples: Sequence[Sample]) -> None: ...


class Pipeline:
    """Feeds recorded frames, in record order, through the analyzers, the alert lifecycle and the episodes.

    Time is the records' time of receipt, also for what follows from its passing: once a second of it, analyzers tick.
    """

    def __init__(self, analyzers: Sequence[Analyzer], lifecycle: Lifecycle, sinks: Sequence[Sink] = ()) -> None:
        self.analyzers = Dispatch(analyzers)
        self.lifecycle = lifecycle
        self.episodes = Episodes(explains)
        self._sinks = sinks
        self._instances = Instances()
        self._interpreter = Interpreter()
        self._ticked_ns = 0
        self._record_id = -1

    def tick(self, now: float) -> list[Transition]:
        """What the passing of time alone decides: conditions that have lasted, or stayed away, long enough."""
        return self.episodes.follow(self.lifecycle.tick(now, self._record_id))

    def observe(self, frame: Frame, received_ns: int, record_id: int) -> list[Transition]:
        """What this frame decides; ``received_ns`` is the daemon's time of receipt, from the record."""
        findings = self._findings(frame, received_ns, record_id)
        if not findings:
            return []
        observed = (self.lifecycle.observe(found, record_id) for found in findings)
        return self.episodes.follow([transition for transition in observed if transition is not None])

    def unchecked(self, run: str, boot: str) -> list[Unchecked]:
        """The rules that cannot be looked at in this launch of a run, with the reason."""
        by_rules = [one for one in self.analyzers.analyzers if isinstance(one, RuleAnalyzer)]
        return [found for analyzer in by_rules for found in analyzer.unchecked(run, boot)]

    def restore(self, alerts: Sequence[Alert], rows: Mapping[str, str] | None = None) -> None:
        """Take up after a restart: ``alerts`` and ``rows`` are those stored."""
        self.lifecycle.restore(alerts, rows)
        self.episodes.restore(alerts)

    def warm_up(self, frame: Frame, received_ns: int, record_id: int) -> None:
        """Feed the analyzers with a frame that was decided on before the restart; what they find is known."""
        self._findings(frame, received_ns, record_id)

    def _findings(self, frame: Frame, received_ns: int, record_id: int) -> list[Finding]:
        findings: list[Finding] = []
        self._record_id = max(self._record_id, record_id)
        if received_ns - self._ticked_ns >= TICK_NS:
            self._ticked_ns = received_ns
            findings += self.analyzers.tick(received_ns / 1e9)
        frame = self._instances.numbered(frame)
        samples = self._interpreter.samples(frame, received_ns, record_id)
        for sink in self._sinks:
            sink.take(frame, samples)
        findings += self.analyzers.observe(samples)
        if frame.event is not None:
            findings += self.analyzers.happened(_happening(frame, frame.event, received_ns / 1e9, record_id))
        return findings


def _happening(frame: Frame, name: str, time: float, record_id: int) -> Happening:
    return Happening(frame.run, frame.boot, frame.role, frame.rank, frame.step, name, frame.fields, time, record_id)
