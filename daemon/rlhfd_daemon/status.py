"""The state of the daemon and of every run as plain values: the answer of `GET /api/v1/status`."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass

import rlhfd_daemon
from rlhfd_alerts.alert import Episode
from rlhfd_daemon.alerting import Alerting
from rlhfd_daemon.delivery import Delivery
from rlhfd_daemon.framelog import FrameLog
from rlhfd_daemon.ingest import Ingest
from rlhfd_daemon.pipeline import Pipeline
from rlhfd_daemon.pollers.schedule import Schedule
from rlhfd_daemon.recorder import Recorder
from rlhfd_daemon.runs import DAEMON_ROLE, Run, Runs, Stream


@dataclass(frozen=True)
class Parts:
    """What the answer is read from."""

    started_at: float
    reload_error: str | None
    muted: Collection[str]
    ingest: Ingest
    recorder: Recorder
    framelog: FrameLog
    alerting: Alerting
    delivery: Delivery
    pipeline: Pipeline
    runs: Runs
    pollers: Schedule


def status(parts: Parts) -> dict[str, object]:
    """Times are Unix seconds, sizes bytes."""
    log = parts.framelog.stats()
    return {
        "version": rlhfd_daemon.__version__,
        "pid": os.getpid(),
        "time": time.time(),
        "started_at": parts.started_at,
        "endpoint": parts.ingest.endpoint,
        "reload_error": parts.reload_error,
        "ingest": {
            "messages_total": parts.ingest.received,
            "frames_total": parts.recorder.counters.accepted,
            "duplicates_total": parts.recorder.counters.duplicates,
            "rejected_total": parts.ingest.rejected,
            "notifications_total": parts.alerting.notifications,
            "notifications_dropped_total": parts.alerting.dropped,
        },
        "framelog": {
            "segments": log.segments,
            "bytes": log.bytes,
            "last_record": log.last_id,
            "unrecorded_total": log.unrecorded_total,
            "quarantined_total": log.quarantined_total,
            "degraded": log.degraded,
        },
        "targets": parts.delivery.status(),
        "pollers": {name: asdict(health) for name, health in parts.pollers.health.items()},
        "alerts": [
            {
                "fingerprint": alert.fingerprint,
                "episode": parts.pipeline.episodes.of(alert.fingerprint),
                "run": alert.finding.run,
                "rule": alert.finding.rule,
                "metric": alert.finding.metric,
                "severity": alert.finding.severity.value,
                "since": alert.starts_at,
                "onset_step": alert.finding.onset_step,
                "summary": alert.finding.summary,
            }
            for alert in parts.pipeline.lifecycle.firing
        ],
        "episodes": [_episode(episode) for episode in parts.pipeline.episodes.open],
        "runs": [
            _run(run, run.run in parts.muted)
            for run in sorted(parts.runs.runs.values(), key=lambda run: run.first_seen)
            if run.is_training
        ],
    }


def _episode(episode: Episode) -> dict[str, object]:
    cause = episode.cause.finding
    onset = cause.onset_step if episode.cause.place is None else episode.cause.place.onset_step
    return {
        "id": episode.id,
        "run": cause.run,
        "boot": cause.boot,
        "severity": episode.severity.value,
        "opening": episode.opening,
        "since": episode.opened_time,
        "onset_step": onset,
        "rule": cause.rule,
        "metric": cause.metric,
        "summary": cause.summary,
        "remedy": cause.remedy,
        "confidence": episode.confidence,
        "firing": episode.firing,
        "metrics": list(dict.fromkeys(member.finding.metric for member in episode.members)),
    }


def _run(run: Run, muted: bool) -> dict[str, object]:
    return {
        "run": run.run,
        "boot": run.boot,
        "trainer": run.trainer,
        "live": run.live,
        "muted": muted,
        "step": run.step,
        "first_seen": run.first_seen,
        "last_seen": run.last_seen,
        "streams": [_stream(stream) for stream in run.streams.values() if stream.role != DAEMON_ROLE],
    }


def _stream(stream: Stream) -> dict[str, object]:
    return {
        "role": stream.role,
        "rank": stream.rank,
        "stream": stream.stream,
        "pid": stream.pid,
        "frames": stream.frames,
        "gaps": stream.gaps,
        "duplicates": stream.duplicates,
        "drops": stream.drops,
        "phase": stream.phase,
        "hooks": dict(stream.hooks),
        "last_seen": stream.last_seen,
        "ended": stream.ended,
    }
