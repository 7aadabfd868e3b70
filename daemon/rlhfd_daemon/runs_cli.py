"""The commands `rlhfd runs` and `rlhfd topology`: which runs there are, and what each of their processes does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Optional
from urllib.parse import urlencode

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rlhfd_daemon import unchecked_report
from rlhfd_daemon.errors import DaemonError
from rlhfd_daemon.render import console, plain

__all__ = ["runs_command", "runs_table", "topology_command", "topology_tables"]

RunArgument = Annotated[Optional[str], typer.Argument(metavar="[RUN]", help="Only the run of this name.")]  # noqa: UP045 - typer reads the annotation at run time
ConfigOption = Annotated[Optional[Path], typer.Option("--config", "-c", help="The daemon's configuration file.")]  # noqa: UP045
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Row = dict[str, Any]


def runs_command(run: RunArgument = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the runs that the daemon knows; with a name what that run said of itself: arguments and versions."""
    answer = _ask("runs", run, config)
    if json:
        typer.echo(msgspec.json.encode(answer).decode())
        return
    console().print(runs_table(answer["runs"], answer["time"]))
    if run is not None:
        for line in _metadata(answer["runs"][-1]):
            typer.echo(line)
        for text in unchecked_report.lines(unchecked_report.of(answer["runs"][-1]["unchecked"]), 100, whole=True):
            typer.echo(text.plain)


def topology_command(run: RunArgument = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show where the processes of the live runs are and what each does now."""
    answer = _ask("topology", run, config)
    if json:
        typer.echo(msgspec.json.encode(answer).decode())
    else:
        console().print(topology_tables(answer["runs"], answer["time"]))


def _ask(what: str, run: str | None, config: Path | None) -> dict[str, Any]:
    from rlhfd_daemon.app import control_socket_of
    from rlhfd_daemon.cli import one_line_errors
    from rlhfd_daemon.config import read_config
    from rlhfd_daemon.control import ask

    with one_line_errors():
        query = "" if run is None else "?" + urlencode({"run": run})
        answer: dict[str, Any] = ask(control_socket_of(read_config(config)[0]), "GET", f"/api/v1/{what}{query}")
        if run is not None and not answer["runs"]:
            raise DaemonError(f"{run}: the daemon knows no run of this name; `rlhfd runs` lists them")
        return answer


def runs_table(runs: Sequence[Row], now: float) -> RenderableType:
    """One line for each launch of a run."""
    if not runs:
        return Text("no run has been seen")
    titles = ("run", "boot", "state", "step", "trainer", "algorithm", "model", "processes", "alerts", "started", "seen")
    rows = []
    for run in runs:
        rows.append(
            (
                run["run"],
                run["boot"][:8],
                _state(run),
                run["step"],
                run["trainer"],
                run["algorithm"],
                run["model"],
                f"{run['processes_live']}/{run['processes']}",
                run["alerts"] or None,
                _clock(run["first_seen"]),
                _ago(now - run["last_seen"]),
            )
        )
    return _table(titles, rows)


def topology_tables(runs: Sequence[Row], now: float) -> RenderableType:
    """One table for each launch of a run, one line for each process; who lives first."""
    if not runs:
        return Text("no run is live")
    return Group(*(_topology(run, now) for run in runs))


def _topology(run: Row, now: float) -> RenderableType:
    titles = ("host", "role", "rank", "pid", "GPUs", "phase", "for", "method", "busy", "RSS", "seen")
    title = f"{run['run']} ({'live' if run['live'] else 'over'}, step {run['step']}, boot {run['boot'][:8]})"
    rows = []
    for one in run["processes"]:
        rows.append(
            (
                one["host"],
                one["role"],
                one["rank"],
                one["pid"],
                one["gpus"],
                one["phase"],
                None if one["phase_since"] is None else _duration(now - one["phase_since"]),
                one["method"],
                None if one["busy_ratio"] is None else f"{100 * one['busy_ratio']:.0f} %",
                None if one["rss_bytes"] is None else f"{one['rss_bytes'] / 2**30:.1f} GiB",
                one["ended"] or _ago(now - one["last_seen"]),
            )
        )
    return Group(_table(titles, rows, title), *(Text(line) for line in _troubles(run["processes"])))


def _troubles(processes: Iterable[Row]) -> Iterable[str]:
    """What is not seen of the run: one line for each hook of each process that lives."""
    for one in processes:
        rank = "" if one["rank"] is None else f" rank {one['rank']}"
        for hook, text in one["hooks"].items() if one["ended"] is None else ():
            yield plain(f"{one['role']}{rank} (pid {one['pid']}): hook {hook} {text}")


def _metadata(run: Row) -> Iterable[str]:
    context = run["context"]
    if run["steps"]:
        yield f"steps: {run['steps']}"
    if not context:
        yield "metadata: none yet; the trainer has not said anything"
    for section in ("versions", "args"):
        for name, value in sorted(dict(context.get(section) or {}).items()):
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            yield plain(f"{section}: {name} = {text}")


def _state(run: Row) -> str:
    if run["live"]:
        return "live"
    reasons = [reason for reason in run["ended"] if reason != "process_stop"]
    return f"ended: {', '.join(sorted(reasons))}" if reasons else "ended"


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> Table:
    """Columns of which nothing is known are left out, and what is too wide is folded, never cut off: people copy names
    and pids from here."""
    table = Table(title=None if title is None else Text(plain(title)), title_justify="left")
    used = [at for at in range(len(titles)) if any(row[at] is not None for row in rows)]
    for at in used:
        table.add_column(titles[at], overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if row[at] is None else plain(str(row[at]))) for at in used))
    return table


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M")


def _ago(seconds: float) -> str:
    return f"{_duration(seconds)} ago"


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    return f"{whole} s"
