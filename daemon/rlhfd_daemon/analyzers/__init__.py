"""Analyzers turn samples into findings. To add one: a file here, a section in config.py, a line in :func:`build`."""

from __future__ import annotations

from rlhfd_daemon.analyzers.absence import Absence
from rlhfd_daemon.analyzers.adaptive import Adaptive
from rlhfd_daemon.analyzers.dispatch import Analyzer
from rlhfd_daemon.analyzers.forecast import SupplyForecast
from rlhfd_daemon.analyzers.forecast_steps import StepForecast
from rlhfd_daemon.analyzers.incidents import Incidents
from rlhfd_daemon.analyzers.joint import Joint
from rlhfd_daemon.analyzers.non_finite import NonFinite
from rlhfd_daemon.analyzers.overdue import NoCheckpoint
from rlhfd_daemon.analyzers.reward_samples import RewardSamples
from rlhfd_daemon.config import AnalyzersConfig

__all__ = ["Analyzer", "build"]


def build(config: AnalyzersConfig) -> tuple[Analyzer, ...]:
    """The enabled analyzers, in a fixed order. :raises ConfigError: a file of rules is bad."""
    from rlhfd_daemon.rules.configured import build as build_rules  # rules have families, which are in this package

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
    if config.reward.enabled:
        found.append(RewardSamples(config.reward))
    if config.rules.enabled:
        found.append(build_rules(config.rules))
    return tuple(found)
