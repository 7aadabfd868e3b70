"""The answer of `rlhfd status` for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rlhfd_alerts.finding import Severity

PIPED_COLUMNS = 240  # rich would take 80 where there is no terminal, and cut what a script looks for
MAX_OTHERS = 4  # metrics named beside the first
_SEVERITIES = [severity.value for severity in reversed(Severity)]


def console() -> Console:
    """For tables: as wide as the terminal; wide where the output goes to a file or a program."""
    found = Console()
    return found if found.is_terminal else Console(width=PIPED_COLUMNS)


def plain(text: str) -> str:
    """``text`` without what a terminal would obey: names come from outside."""
    return "".join(char if char.isprintable() else " " for char in text)


def render(answer: dict[str, Any]) -> RenderableType:
    """``answer`` is what ``GET /api/v1/status`` gave."""
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
    lines += _outlets(answer.get("http"), answer.get("steps"))
    tables = [_run_table(run, now) for run in answer["runs"]]
    return Group(*(Text(line) for line in lines), _episode_table(answer["episodes"], answer["alerts"]), *tables)


def _outlets(http: dict[str, Any] | None, steps: dict[str, Any] | None) -> Iterator[str]:
    if http and http["error"]:
        yield f"NO /metrics: {http['error']}"
    elif http and http["address"]:
        yield f"/metrics at {http['address']}"
    if steps and steps["error"]:
        yield f"STEPS NOT WRITTEN: {steps['error']}, {steps['dropped_total']} dropped; {steps['directory']}"


def _episode_table(episodes: list[dict[str, Any]], alerts: list[dict[str, Any]]) -> RenderableType:
    alone = [{**alert, "metrics": [], "firing": 1, "confidence": None} for alert in alerts if not alert["episode"]]
    episodes = [*episodes, *alone]
    if not episodes:
        return Text("no alert is firing")
    table = Table(title="open episodes", title_justify="left")
    for column in ("run", "severity", "rule", "since step", "summary", "alerts", "confidence"):
        table.add_column(column, overflow="fold")
    for one in sorted(episodes, key=lambda one: _SEVERITIES.index(one["severity"])):
        step = "" if one["onset_step"] is None else str(one["onset_step"])
        others = [name for name in one["metrics"] if name != one["metric"]]
        also = f"; also {', '.join(others[:MAX_OTHERS])}" if others else ""
        more = f" and {len(others) - MAX_OTHERS} more" if len(others) > MAX_OTHERS else ""
        sure = "" if one["confidence"] is None else f"{one['confidence']:.2f}"
        told = f"{one['summary']}{also}{more}"
        cells = (one["run"], one["severity"], one["rule"], step, told, str(one["firing"]), sure)
        table.add_row(*(Text(plain(cell)) for cell in cells))
    return table


def _run_table(run: dict[str, Any], now: float) -> RenderableType:
    state = "live" if run["live"] else "over"
    muted = ", muted" if run["muted"] else ""
    trainer = run["trainer"] or "no metadata yet"
    title = f"{run['run']} ({trainer}, {state}{muted}, step {run['step']}, boot {run['boot'][:8]})"
    table = Table(title=Text(plain(title)), title_justify="left")
    for column in ("role", "rank", "pid", "frames", "lost", "phase", "last seen"):
        table.add_column(column)
    for stream in run["streams"]:
        rank = "" if stream["rank"] is None else str(stream["rank"])
        seen = stream["ended"] or f"{now - stream['last_seen']:.0f} s ago"
        numbers = (str(stream[key]) for key in ("pid", "frames", "gaps"))
        cells = (stream["role"], rank, *numbers, stream["phase"] or "", seen)
        table.add_row(*(Text(plain(cell)) for cell in cells))
    return table
