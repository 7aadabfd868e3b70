"""The table of incidents: which event begins and ends one, how bad it is, what it says and what to do."""

from __future__ import annotations

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.analyzers.incident import Incident
from rlhfd_daemon.analyzers.incidents_actions import ACTIONS
from rlhfd_daemon.analyzers.incidents_checkpoints import CHECKPOINTS
from rlhfd_daemon.analyzers.incidents_own import OWN

__all__ = ["INCIDENTS", "Incident"]

INCIDENTS: tuple[Incident, ...] = (
    Incident(
        begin="phase_stalled",
        ends=("phase_resumed",),
        rule="stalled_phase",
        family="stall",
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
        family="stall",
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
        family="system",
        severity=Severity.CRITICAL,
        metric="actor",
        summary="{role} rank {rank} (pid {pid} on {host}) is gone: {cause}; last seen in {last_phase}",
        remedy="Ray fails the whole run soon. Look for an OOM kill (dmesg, oom_kill) and at the end of the actor's Ray "
        "worker log; resume with --ckpt.load_enable. For memory: fewer engines per node, "
        "--vllm.gpu_memory_utilization, no --vllm.enable_sleep.",
        key=("role", "rank"),
        labels=("role", "rank", "pid", "host"),
    ),
    Incident(
        begin="reward_failed",
        rule="reward_failed",
        family="reward",
        severity=Severity.CRITICAL,
        metric="rlhfd/reward_call/failed_count",
        summary="a reward call ({call}) of pid {pid} on {host} failed after {seconds} s: {error}; {failed} of {calls} "
        "calls so far",
        remedy="OpenRLHF only logs it, and a sample without a reward ends the run: let the reward function catch its "
        "errors, look at the reward service and its log (rlhfd/reward_call/retries, latency_max_seconds), then resume "
        "with --ckpt.load_enable.",
        key=("call",),
        labels=("pid", "host"),
        value="failed",
        roles=frozenset({"RolloutRayActor", "LLMRayActor"}),  # the second up to 0.10.1
    ),
    Incident(
        begin="reward_scores_changed",
        ends=("reward_scores_kept",),
        rule="reward_scores_changed",
        family="reward",
        severity=Severity.CRITICAL,
        metric="reward_probe/changed_count",
        summary="{scorer} scores {count} known answers otherwise than before, the first ({pair}) {new}, not {old}",
        remedy="The reward is not the one that the run began with: look for a new version of the reward model or "
        "function, other weights, or a service that answers for another model. Rewards before and after do not "
        "compare; when the new scores are right, remove the baseline file.",
        key=("scorer",),
        labels=("scorer",),
        value="count",
    ),
    Incident(
        begin="reward_probe_failed",
        ends=("reward_probe_answered",),
        rule="reward_probe_failed",
        family="reward",
        severity=Severity.WARNING,
        metric="reward_probe/failed_ratio",
        summary="{failed} of {calls} probes of {scorer} failed: {error}",
        remedy="Look at the reward service and its log: OpenRLHF itself only retries, and a sample without a reward "
        "ends the run.",
        key=("scorer",),
        labels=("scorer",),
        value="failed",
    ),
    Incident(
        begin="oom_kill",
        rule="oom_kill",
        family="system",
        severity=Severity.CRITICAL,
        metric="host/oom_kills_total",
        summary="the kernel killed {count} processes for want of memory",
        remedy="Watch process/<role>/rss_bytes and host/memory_available_bytes: fewer engines per node, no "
        "--vllm.enable_sleep, no --ds.adam_offload, or more memory; then resume with --ckpt.load_enable.",
        value="count",
    ),
    Incident(
        begin="clock_stepped",
        rule="clock_stepped",
        family="system",
        severity=Severity.INFO,
        metric="clock",
        summary="the wall clock was set {direction} by {seconds} s",
        remedy="Durations are measured by the monotonic clock and stay right; time stamps before and after do not "
        "compare. Let NTP slew instead of step.",
        value="seconds",
    ),
    Incident(
        begin="mount_stuck",
        ends=("mount_back",),
        rule="mount_stuck",
        family="system",
        severity=Severity.WARNING,
        metric="mount",
        summary="the file system at {mount} has not answered for {seconds} s",
        remedy="A dead network mount blocks checkpoints in the kernel. Look at the server and at dmesg.",
        key=("mount",),
        value="seconds",
    ),
    Incident(
        begin="gpu_lost",
        ends=("gpu_back",),
        rule="gpu_lost",
        family="system",
        severity=Severity.CRITICAL,
        metric="gpu",
        summary="GPU {gpu} ({name}) is lost: {reason}",
        remedy="Drain the node and reset the GPU (rlhfd gpu release lets go of it) or reboot; dmesg shows the XIDs.",
        key=("uuid",),
        labels=("gpu",),
    ),
    Incident(
        begin="gpu_xid",
        rule="gpu_xid",
        family="system",
        severity=Severity.WARNING,
        metric="gpu",
        summary="GPU {gpu} reports XID {xid}: {meaning}",
        remedy="Look the XID up in NVIDIA's catalogue; a hardware XID means draining the node.",
        key=("uuid", "xid"),
        labels=("gpu", "xid"),
        value="xid",
    ),
    Incident(
        begin="gpu_telemetry_stuck",
        ends=("gpu_telemetry_resumed",),
        rule="gpu_telemetry_stuck",
        family="system",
        severity=Severity.WARNING,
        metric="gpu",
        summary="NVML's {call} on GPU {gpu} does not return, for {seconds} s now",
        remedy="The driver hangs: expect the training to hang, too. See dmesg; the node probably needs a reboot.",
        labels=("gpu", "call", "pid"),
        value="seconds",
    ),
    *CHECKPOINTS,
    *OWN,
    *ACTIONS,
)
