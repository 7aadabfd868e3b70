"""Incidents of rlhfd itself: what it could not see, record or tell."""

from __future__ import annotations

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.analyzers.incident import Incident

__all__ = ["OWN"]

OWN: tuple[Incident, ...] = (
    Incident(
        begin="hook_failed",
        only="disabled",
        rule="hook_off",
        family="system",
        severity=Severity.WARNING,
        metric="hook",
        summary="rlhfd's hook {hook} in {role} has switched itself off: {error}; what it saw is missing from here on",
        remedy="The training is as it was. rlhfd doctor and rlhfd topology name the processes; report the error with "
        "OpenRLHF's version, and update rlhfd. The hook is tried again when the process starts anew.",
        key=("hook",),
        roles=None,
    ),
    Incident(
        begin="recording_stopped",
        ends=("recording_resumed",),
        rule="recording_stopped",
        family="system",
        severity=Severity.WARNING,
        metric="rlhfd/frame_log",
        summary="rlhfd on {host} cannot record frames: {error}; runs are watched on, but neither a restart nor "
        "a replay will know of them",
        remedy="Make room on the disk of the state directory, or lower framelog.max_bytes; it goes on by itself.",
        labels=("host",),
    ),
    Incident(
        begin="frames_lost",
        rule="frames_lost",
        family="system",
        severity=Severity.WARNING,
        metric="rlhfd/frames_lost",
        summary="{frames} frames of {role} rank {rank} (pid {pid} on {host}) are lost; of its stream so far: {reasons}",
        remedy="ring_full: the daemon was away or too slow for longer than the emitter's memory lasts; look at the "
        "load of the node and at when the daemon was started. too_large: fewer or shorter values in one frame.",
        key=("role", "rank"),
        labels=("role", "rank", "pid", "host"),
        value="frames",
    ),
    Incident(
        begin="target_degraded",
        ends=("target_recovered",),
        rule="notifier_degraded",
        family="system",
        severity=Severity.WARNING,
        metric="target/{target}",
        summary="Alerts do not reach the target {target}: it {state} ({error}); what it is owed is kept",
        remedy="Look at the service and at the target's section of the configuration; rlhfd notify test tries it. A "
        "target that answered 410 is tried again after a reload (SIGHUP).",
        key=("target",),
        value="seconds",
    ),
    Incident(
        begin="notification_given_up",
        rule="notification_given_up",
        family="system",
        severity=Severity.WARNING,
        metric="target/{target}",
        summary="The target {target} refused an alert for good: {error}",
        remedy="HTTP 401, 403 and 404 mean a wrong URL or secret, a redirect that the final URL is needed; rlhfd "
        "notify test tries it. The daemon's log names the message, which stays in its outbox.",
        key=("target",),
    ),
)
