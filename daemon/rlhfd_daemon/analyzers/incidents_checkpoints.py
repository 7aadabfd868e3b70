"""Incidents of checkpoints: one row for each kind of issue, and one for those that are never finished."""

from __future__ import annotations

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.analyzers.incident import Incident
from rlhfd_daemon.checkpoints.health import KINDS

__all__ = ["CHECKPOINTS"]

CHECKPOINTS: tuple[Incident, ...] = (
    Incident(
        begin="checkpoint_incomplete",
        ends=("checkpoint_judged",),
        rule="checkpoint_incomplete",
        family="checkpoint",
        severity=Severity.CRITICAL,
        metric="checkpoint/{role}/health",
        summary="the checkpoint {path} is not complete: {reason}",
        remedy="It cannot be resumed from. Look for a full disk or a process that was killed while saving, and keep "
        "the one before (--ckpt.max_num deletes it with the next that is saved).",
        key=("role", "format"),
        labels=("role", "format"),
        value="age_seconds",
    ),
    *(
        Incident(
            begin=f"checkpoint_{name}",
            ends=(f"checkpoint_{name}_over",),
            rule=kind.rule,
            family="checkpoint",
            severity=kind.severity,
            metric="checkpoint/{role}/health",
            summary="checkpoint {path} (health {score}): {subject}: {finding}; {count} of this kind",
            remedy=kind.remedy,
            key=("role", "format"),
            labels=("role", "format"),
            value="score",
        )
        for name, kind in KINDS.items()
    ),
)
