"""What is known from an event instead of a metric: one row for each of the table of incidents."""

from __future__ import annotations

from rlhfd_daemon.analyzers.incident_table import INCIDENTS, Incident
from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.rule import Rule

__all__ = ["ROWS"]

# Title, source, and what usually follows.
_MORE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "stalled_phase": (
        "A phase does not end",
        "OpenRLHF/OpenRLHF#411, OpenRLHF/OpenRLHF#211, modelscope/ms-swift#6962; limits learnt per phase",
        ("missing_key", "step_slow"),
    ),
    "heartbeat_lost": (
        "A process exists but is silent",
        "wandb/wandb#8592; the time is our choice",
        ("stalled_phase", "missing_key"),
    ),
    "actor_death": (
        "A process of the run has died",
        "OpenRLHF/OpenRLHF#331, OpenRLHF/OpenRLHF#305, OpenRLHF/OpenRLHF#862",
        ("stalled_phase", "heartbeat_lost", "missing_key", "no_checkpoint"),
    ),
    "reward_failed": (
        "A reward call failed",
        "openrlhf/utils/agent.py, which only logs errors",
        ("reward_calls_fail", "reward_missing", "non_finite", "actor_death", "stalled_phase"),
    ),
    "reward_scores_changed": ("The reward scores known answers differently", "our choice", ("reward_failed",)),
    "reward_probe_failed": ("The reward does not answer a probe", "our choice", ("reward_failed", "reward_calls_fail")),
    "oom_kill": (
        "The kernel has killed a process for want of memory",
        "OpenRLHF/OpenRLHF#911, OpenRLHF/OpenRLHF#936",
        ("actor_death", "heartbeat_lost", "stalled_phase"),
    ),
    "clock_stepped": ("The clock was set", "our choice", ()),
    "mount_stuck": (
        "A file system does not answer", "our choice", ("stalled_phase", "no_checkpoint", "heartbeat_lost"),
    ),
    "gpu_lost": (
        "A GPU is lost", "NVIDIA, XID Errors", ("actor_death", "stalled_phase", "heartbeat_lost"),
    ),
    "gpu_xid": (
        "A GPU reports an error", "NVIDIA, XID Errors", ("gpu_lost", "actor_death", "stalled_phase", "non_finite"),
    ),
    "gpu_telemetry_stuck": (
        "A GPU's driver does not answer", "our choice", ("gpu_lost", "stalled_phase", "heartbeat_lost"),
    ),
    "checkpoint_incomplete": (
        "A checkpoint is never finished", "DeepSpeed, runtime/engine.py: latest comes before all ranks are done", (),
    ),
    "checkpoint_non_finite": (
        "Weights of a checkpoint are not finite", "Rikorose/DeepFilterNet#30, NVIDIA-NeMo/RL#3544", (),
    ),
    "checkpoint_moments": ("Optimizer moments of a checkpoint are not finite", "our choice", ()),
    "checkpoint_files": ("Files of a checkpoint are missing or broken", "our choice", ()),
    "checkpoint_refused": ("A file of a checkpoint must not be loaded", "CVE-2025-32434", ()),
    "checkpoint_constant": ("A tensor of a checkpoint became constant", "our choice", ()),
    "checkpoint_structure": ("Tensors of a checkpoint are others than before", "our choice", ()),
    "checkpoint_moved": ("A tensor moved too far between checkpoints", "our choice: a tenth of its norm", ()),
    "checkpoint_frozen": (
        "A tensor does not change between checkpoints", "openrlhf/models/utils.py; our choice: three in a row", (),
    ),
    "checkpoint_step": ("Steps of a checkpoint do not agree", "our choice", ()),
    "checkpoint_unread": ("Parts of a checkpoint are not judged", "our choice", ()),
    "checkpoint_dtype": ("Tensors of a checkpoint changed their type", "our choice", ()),
    "recording_stopped": ("Frames are not recorded", "our choice", ()),
    "frames_lost": ("Frames of a process are lost", "our choice", ("missing_key",)),
    "notifier_degraded": ("Alerts do not reach a target", "our choice: 300 s", ()),
    "notification_given_up": ("A target refused an alert", "Standard Webhooks, on status codes", ()),
    "action_requested": ("A process of the run is asked for a checkpoint or a stop", "docs/actions.md", ()),
    "action_taken": ("An action was carried out", "docs/actions.md", ()),
    "action_failed": ("An action was not carried out", "docs/actions.md", ()),
    "action_dry_run": ("What an action would have done", "docs/actions.md", ()),
    "hook_off": ("A hook of rlhfd has switched itself off", "our choice", ("missing_key",)),
}  # fmt: skip


def _row(incident: Incident) -> Rule:
    title, source, explains = _MORE[incident.rule]
    return row(
        incident.rule,
        title,
        incident.family,
        incident.severity,
        analyzer="incidents",
        metrics=(incident.metric,),
        explains=explains,
        summary=incident.summary,
        remedy=incident.remedy,
        source=source,
    )


ROWS = tuple(map(_row, INCIDENTS))
