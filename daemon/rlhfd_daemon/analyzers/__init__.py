"""Analyzers turn samples into findings. To add one: a file here, a section in config.py, a line in :func:`build`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rlhfd_alerts.finding import Finding
from rlhfd_daemon.analyzers.absence import Absence
from rlhfd_daemon.analyzers.adaptive import Adaptive
from rlhfd_daemon.analyzers.forecast import SupplyForecast
from rlhfd_daemon.analyzers.forecast_steps import StepForecast
from rlhfd_daemon.analyzers.incidents import Incidents
from rlhfd_daemon.analyzers.joint import Joint
from rlhfd_daemon.analyzers.non_finite import NonFinite
from rlhfd_daemon.analyzers.overdue import NoCheckpoint
from rlhfd_daemon.config import AnalyzersConfig
from rlhfd_daemon.sample import Happening, Sample

__all__ = ["Analyzer", "build"]


class Analyzer(Protocol):
    """Keeps state, but takes time only from what it is given: the same samples give the same findings."""

    def observe(self, sample: Sample) -> Iterable[Finding]:
        """Findings whose condition began or ended with this sample."""
        ...

    def happened(self, event: Happening) -> Iterable[Finding]:
        """Findings whose condition began or ended with this event."""
        ...

    def tick(self, now: float) -> Iterable[Finding]:
        """Findings that follow from the passing of time; ``now`` in Unix seconds."""
        ...

    def forget(self, run: str, boot: str) -> None:
        """Drop the state of a run that is over."""
        ...


def build(config: AnalyzersConfig) -> tuple[Analyzer, ...]:
    """The enabled analyzers, in a fixed order."""
    found: list[Analyzer] = []
    if config.non_finite.enabled:
        found.append(NonFinite(config.non_finite))
    if config.adaptive.enabled:
        adaptive = Adaptive(config.adaptive)
        found += [adaptive, Joint(adaptive)]
    if config.absence.enabled:
        found += [Absence(config.absence), NoCheckpoint(config.absence)]
    if config.forecast.enabled:
        found += [SupplyForecast(config.forecast), StepForecast(config.forecast)]
    if config.incidents.enabled:
        found.append(Incidents(config.incidents))
    return tuple(found)
