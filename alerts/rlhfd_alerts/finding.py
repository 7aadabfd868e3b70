"""What an analyzer says: one condition, true or no longer true, at one sample."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Severity"]


class Severity(str, Enum):
    """How bad, in rising order; ``rank`` compares."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for critical."""
        return tuple(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition at one sample. Times are unix seconds; unknown is ``None``; floats may be NaN or infinite."""

    run: str
    boot: str
    rule: str
    family: str
    metric: str
    severity: Severity
    active: bool  # the condition is true / is no longer true
    step: int | None
    time: float
    value: float | None
    baseline: float | None
    onset_step: int | None
    onset_time: float
    summary: str
    remedy: str
    evidence: tuple[tuple[int | None, float], ...] = ()  # (step, value), oldest first
    labels: tuple[tuple[str, str], ...] = ()  # role, rank, ...
    episode: str = ""  # which one it belongs to; empty until that is decided
