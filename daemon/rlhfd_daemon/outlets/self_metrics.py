"""How the daemon itself fares, as Prometheus families made from the answer of `rlhfd status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from rlhfd_alerts.finding import Severity

__all__ = ["self_families"]

MAX_DROP_REASONS = 32  # of one run: emitters name them

Status = Mapping[str, Any]
Rows = Iterable[tuple[tuple[str, ...], float]]


def self_families(status: Status) -> Iterator[Metric]:
    """``status`` is :func:`rlhfd_daemon.status.status`'s answer, with ``shown_runs`` (run, step, live, last_seen) and
    ``latest`` (series, series_dropped_total) of the page. A part that it lacks is left out."""
    yield _gauge("build_info", "The version of this daemon.", ("version",), [((str(status.get("version")),), 1)])
    yield from _ingest(status.get("ingest", {}))
    yield from _framelog(status.get("framelog", {}))
    yield from _alerts(status)
    yield from _targets(status.get("targets", {}))
    yield from _pollers(status.get("pollers", {}))
    yield from _runs(status)
    yield from _outlets(status)


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = GaugeMetricFamily(f"rlhfd_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = CounterMetricFamily(f"rlhfd_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _one(value: float) -> Rows:
    return [((), value)]


def _ingest(ingest: Status) -> Iterator[Metric]:
    if not ingest:
        return
    yield _counter("messages", "Messages that came from emitters.", (), _one(ingest["messages_total"]))
    yield _counter("frames", "Frames taken and recorded.", (), _one(ingest["frames_total"]))
    yield _counter(
        "frames_duplicate", "Frames that had been taken before, sent again.", (), _one(ingest["duplicates_total"])
    )
    rejected = [((reason,), count) for reason, count in sorted(ingest["rejected_total"].items())]
    yield _counter("frames_rejected", "Messages that were no frame to be taken, by reason.", ("reason",), rejected)
    if "notifications_total" in ingest:
        text = "Notifications that were decided, whether or not they were delivered yet."
        yield _counter("notifications", text, (), _one(ingest["notifications_total"]))


def _framelog(log: Status) -> Iterator[Metric]:
    if not log:
        return
    yield _gauge("framelog_bytes", "Size of the frame log on disk.", (), _one(log["bytes"]))
    yield _gauge("framelog_segments", "Files of the frame log.", (), _one(log["segments"]))
    degraded = log["degraded"] is not None
    yield _gauge("framelog_degraded", "1 while the disk takes no frames: nothing is recorded.", (), _one(degraded))
    yield _counter("framelog_unrecorded", "Frames that the disk did not take.", (), _one(log["unrecorded_total"]))
    yield _counter("framelog_quarantined", "Damaged segments set aside.", (), _one(log["quarantined_total"]))


def _alerts(status: Status) -> Iterator[Metric]:
    if "alerts" in status:
        yield _by_severity("alerts_firing", "Alerts that are firing, by severity.", status["alerts"])
    if "episodes" in status:
        text = "Episodes (alerts of one cause together) that are open, by severity."
        yield _by_severity("episodes_open", text, status["episodes"])


def _by_severity(name: str, text: str, rows: Iterable[Status]) -> Metric:
    """How many there are of each severity, zeros included: a gauge that vanishes cannot be alerted on."""
    count = Counter(row["severity"] for row in rows)
    return _gauge(name, text, ("severity",), [((severity.value,), count[severity.value]) for severity in Severity])


def _targets(targets: Status) -> Iterator[Metric]:
    states = [
        ((target, state), count)
        for target, counts in targets.items()
        for state in ("pending", "delivered", "dead")
        if (count := counts.get(state)) is not None
    ]
    failing = [((target,), float(counts.get("last_error") is not None)) for target, counts in targets.items()]
    yield _gauge("target_notifications", "Notifications in the outbox, by state.", ("target", "state"), states)
    yield _gauge("target_failing", "1 if the last attempt to deliver failed.", ("target",), failing)


def _pollers(pollers: Status) -> Iterator[Metric]:
    counters = {
        "polls": "Times that the poller looked.",
        "failures": "Times that it failed.",
        "observations": "What it observed: metrics frames and events.",
    }
    for key, text in counters.items():
        rows = [((poller,), health[key]) for poller, health in pollers.items()]
        yield _counter(f"poller_{key}", text, ("poller",), rows)
    took = [((poller,), health["last_seconds"]) for poller, health in pollers.items()]
    yield _gauge("poller_last_duration_seconds", "How long its last poll took.", ("poller",), took)
    failing = [((poller,), float(health["last_error"] is not None)) for poller, health in pollers.items()]
    yield _gauge("poller_failing", "1 if its last poll failed.", ("poller",), failing)


def _runs(status: Status) -> Iterator[Metric]:
    runs, shown = status.get("runs", []), status.get("shown_runs", [])
    streams = Counter("ended" if stream["ended"] else "live" for run in runs for stream in run["streams"])
    rows = [((state,), streams[state]) for state in ("live", "ended")]
    yield _gauge("streams", "Emitters known, by whether their process lives.", ("state",), rows)
    live = Counter("live" if run["live"] else "ended" for run in runs)
    yield _gauge("runs", "Launches of runs known.", ("state",), [((one,), live[one]) for one in ("live", "ended")])
    steps = [((run["run"],), run["step"]) for run in shown if run["step"] is not None]
    yield _gauge("run_step", "The highest training step that a process of the run reported.", ("run",), steps)
    yield _gauge(
        "run_live", "1 while a process of the run lives.", ("run",), [((run["run"],), run["live"]) for run in shown]
    )
    seen = [((run["run"],), run["last_seen"]) for run in shown]
    yield _gauge("run_last_seen_timestamp_seconds", "When the run's newest frame came.", ("run",), seen)
    drops, gaps = _losses(runs, {run["run"] for run in shown})
    text = "Frames that the run's emitters left out, by class and reason."
    yield _counter("emitter_drops", text, ("run", "reason"), drops)
    yield _counter("emitter_gaps", "Frames of the run that never came.", ("run",), gaps)


def _losses(runs: Iterable[Status], shown: set[str]) -> tuple[Rows, Rows]:
    """Drops by run and reason, gaps by run: of all launches of a name, or a counter would fall with a new one."""
    drops: dict[str, Counter[str]] = {}
    gaps: Counter[str] = Counter()
    for run in runs:
        if run["run"] not in shown:
            continue
        of_run = drops.setdefault(run["run"], Counter())
        for stream in run["streams"]:
            gaps[run["run"]] += stream["gaps"]
            for reason, count in stream["drops"].items():
                of_run[reason if reason in of_run or len(of_run) < MAX_DROP_REASONS else "other"] += count
    by_reason = [((run, reason), count) for run, counts in drops.items() for reason, count in counts.items()]
    return by_reason, [((run,), count) for run, count in gaps.items()]


def _outlets(status: Status) -> Iterator[Metric]:
    latest, steps = status.get("latest", {}), status.get("steps", {})
    if latest:
        yield _gauge("series", "Values held for this page.", (), _one(latest["series"]))
        text = "Values left off this page because a bound was reached."
        yield _counter("series_dropped", text, (), _one(latest["series_dropped_total"]))
    if steps:
        yield _counter("steps_written", "Lines written to steps.jsonl files.", (), _one(steps["written_total"]))
        yield _counter("steps_dropped", "Lines that could not be written.", (), _one(steps["dropped_total"]))
        yield _gauge("steps_failing", "1 while they cannot be written.", (), _one(steps["error"] is not None))
