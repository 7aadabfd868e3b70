"""The table of incidents: which event begins and ends one, how bad it is, what it says and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.runs import DAEMON_ROLE

__all__ = ["INCIDENTS", "Incident"]

_DAEMON = frozenset({DAEMON_ROLE})


@dataclass(frozen=True)
class Incident:
    """One row. ``summary`` and ``metric`` are templates over the event's fields, ``key`` the fields that tell two
    incidents of one run apart, ``labels`` further fields that the alert shows, ``value`` the field that is its number.
    Without ``ends`` it ends by itself some time after it last happened. A field ``critical`` raises the severity."""

    begin: str
    rule: str
    family: str
    severity: Severity
    metric: str
    summary: str
    remedy: str
    ends: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    value: str = ""
    roles: frozenset[str] = _DAEMON


INCIDENTS: tuple[Incident, ...] = (
    Incident(
        begin="phase_stalled",
        ends=("phase_resumed",),
        rule="stalled_phase",
        family="absence",
        severity=Severity.CRITICAL,
        metric="phase/{phase}/seconds",
        summary="{phase} of {role} rank {rank} (pid {pid} on {host}) has been running for {seconds} s, usually at "
        "most {usual_seconds} s{suspects_text}",
        remedy="Look at what that process does (py-spy dump --pid, its Ray worker log). A process in state T was "
        "stopped (kill -CONT); in state D it waits for a disk or a driver. A hanging reward call needs a timeout in "
        "the reward function. In a collective, another rank has died or is late: see actor_death and the rank skew.",
        key=("stream", "id"),
        labels=("phase", "role", "rank", "pid", "host", "suspect_pids"),
        value="seconds",
    ),
    Incident(
        begin="heartbeat_lost",
        ends=("heartbeat_back", "stream_end", "actor_death"),
        rule="heartbeat_lost",
        family="absence",
        severity=Severity.CRITICAL,
        metric="heartbeat",
        summary="{role} rank {rank} (pid {pid} on {host}) exists but has been silent for {seconds} s{suspects_text}",
        remedy="The process is stopped (state T: kill -CONT), blocked in the kernel (state D: disk, driver), or one "
        "long call holds Python's interpreter lock (py-spy dump --pid).",
        key=("stream",),
        labels=("role", "rank", "pid", "host"),
        value="seconds",
    ),
    Incident(
        begin="actor_death",
        ends=("actor_restart",),
        rule="actor_death",
        family="absence",
        severity=Severity.CRITICAL,
        metric="actor",
        summary="{role} rank {rank} (pid {pid} on {host}) is gone: {cause}; last seen in {last_phase}",
        remedy="Ray fails the whole run soon. Look for an OOM kill (dmesg, oom_kill) and at the end of the actor's Ray "
        "worker log; resume with --ckpt.load_enable. For memory: fewer engines per node, "
        "--vllm.gpu_memory_utilization, no --vllm.enable_sleep.",
        key=("role", "rank"),
        labels=("role", "rank", "pid", "host"),
    ),
)
