"""What `rlhfd status` shows: the daemon's own counters and the state of every run, as plain values and as text."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import rlhfd_daemon

if TYPE_CHECKING:
    from rlhfd_daemon.app import App
    from rlhfd_daemon.runs import Run, Stream


def status(app: App) -> dict[str, object]:
    """The answer of ``GET /api/v1/status``. Times are Unix seconds, sizes bytes."""
    log = app.framelog.stats()
    return {
        "version": rlhfd_daemon.__version__,
        "pid": os.getpid(),
        "time": time.time(),
        "started_at": app.started_at,
        "endpoint": app.ingest.endpoint,
        "reload_error": app.reload_error,
        "ingest": {
            "messages_total": app.ingest.received,
            "frames_total": app.recorder.counters.accepted,
            "duplicates_total": app.recorder.counters.duplicates,
            "rejected_total": {**app.ingest.rejected, "foreign_stream": app.recorder.counters.foreign},
        },
        "framelog": {
            "segments": log.segments,
            "bytes": log.bytes,
            "last_record": log.last_id,
            "unrecorded_total": log.unrecorded_total,
            "quarantined_total": log.quarantined_total,
            "degraded": log.degraded,
        },
        "targets": app.delivery.status(),
        "alerts": [
            {
                "fingerprint": alert.fingerprint,
                "run": alert.finding.run,
                "rule": alert.finding.rule,
                "metric": alert.finding.metric,
                "severity": alert.finding.severity.value,
                "since": alert.starts_at,
                "onset_step": alert.finding.onset_step,
                "summary": alert.finding.summary,
            }
            for alert in app.pipeline.lifecycle.firing
        ],
        "runs": [_run(run, app) for run in sorted(app.runs.runs.values(), key=lambda run: run.first_seen)],
    }


def _run(run: Run, app: App) -> dict[str, object]:
    return {
        "run": run.run,
        "boot": run.boot,
        "trainer": run.trainer,
        "live": run.live,
        "muted": run.run in app.muted,
        "step": run.step,
        "first_seen": run.first_seen,
        "last_seen": run.last_seen,
        "streams": [_stream(stream) for stream in run.streams.values()],
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
        "last_seen": stream.last_seen,
        "ended": stream.ended,
    }


def render(answer: dict[str, Any]) -> RenderableType:
    """The same for a terminal."""
    now = answer["time"]
    ingest, log = answer["ingest"], answer["framelog"]
    rejected = {reason: count for reason, count in ingest["rejected_total"].items() if count}
    lines = [
        f"rlhfd {answer['version']}, pid {answer['pid']}, up {now - answer['started_at']:.0f} s, {answer['endpoint']}",
        f"frames {ingest['frames_total']}, duplicates {ingest['duplicates_total']}, rejected {rejected or 0}; "
        f"log {log['bytes'] / 1e6:.1f} MB in {log['segments']} segments"
        + (f", NOT RECORDING: {log['degraded']}" if log["degraded"] else ""),
    ]
    if answer["reload_error"]:
        lines.append(f"last reload refused: {answer['reload_error']}")
    lines += [f"target {name}: {counts}" for name, counts in answer["targets"].items()]
    tables = [_run_table(run, now) for run in answer["runs"]]
    return Group(*(Text(line) for line in lines), _alert_table(answer["alerts"]), *tables)


def _alert_table(alerts: list[dict[str, Any]]) -> RenderableType:
    if not alerts:
        return Text("no alert is firing")
    table = Table(title="firing", title_justify="left")
    for column in ("run", "severity", "rule", "since step", "summary"):
        table.add_column(column)
    for alert in alerts:
        cells = (alert["run"], alert["severity"], alert["rule"], str(alert["onset_step"]), alert["summary"])
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _run_table(run: dict[str, Any], now: float) -> RenderableType:
    state = "live" if run["live"] else "over"
    muted = ", muted" if run["muted"] else ""
    trainer = run["trainer"] or "no metadata yet"
    title = f"{run['run']} ({trainer}, {state}{muted}, step {run['step']}, boot {run['boot'][:8]})"
    table = Table(title=Text(title), title_justify="left")
    for column in ("role", "rank", "pid", "frames", "lost", "phase", "last seen"):
        table.add_column(column)
    for stream in run["streams"]:
        rank = "" if stream["rank"] is None else str(stream["rank"])
        seen = stream["ended"] or f"{now - stream['last_seen']:.0f} s ago"
        numbers = (str(stream[key]) for key in ("pid", "frames", "gaps"))
        cells = (stream["role"], rank, *numbers, stream["phase"] or "", seen)
        table.add_row(*(Text(cell) for cell in cells))
    return table
