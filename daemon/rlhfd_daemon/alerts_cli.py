"""`rlhfd alerts`, `silence`, `outbox` and `route`: what fires, who is told, and what an operator may do about it."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import msgspec
import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["alerts", "outbox", "route", "silence"]

alerts = typer.Typer(help="What fires, and who looks after it.", no_args_is_help=True)
silence = typer.Typer(help="Alerts that are not to be told for a while.", no_args_is_help=True)
outbox = typer.Typer(help="Messages that are owed, or were given up.", no_args_is_help=True)
route = typer.Typer(help="Who is told what.", no_args_is_help=True)

_Config = Annotated[Optional[Path], typer.Option("--config", "-c", help="TOML file.")]  # noqa: UP045
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
_Author = Annotated[str, typer.Option("--author", "-a", help="Who (default: you).")]
_Comment = Annotated[str, typer.Option("--comment", "-m", help="Why.")]
_Target = Annotated[str, typer.Option("--target", "-t", help="Only of this target.")]
_Matchers = Annotated[list[str], typer.Argument(metavar="MATCHER...", help='Like run="ppo-7" or rule=~"kl_.*".')]


@alerts.command("list")
def list_alerts(config: _Config = None, json: _Json = False) -> None:
    """Show the open episodes: muted by what, acknowledged by whom, told to which targets."""
    answer = _ask("GET", "/api/v1/alerts", None, config)
    rows = [
        (one["id"], one["run"], one["severity"], one["rule"], _moment(one["since"]), one["summary"], _standing(one))
        for one in answer["episodes"]
    ]
    _show(answer, json, ("episode", "run", "severity", "rule", "since", "summary", "standing"), rows, "nothing fires")


@alerts.command("show")
def show_alert(
    episode: Annotated[str, typer.Argument(metavar="EPISODE")], config: _Config = None, json: _Json = False
) -> None:
    """Show one open episode with its firing alerts and their labels."""
    found = [one for one in _ask("GET", "/api/v1/alerts", None, config)["episodes"] if one["id"] == episode]
    if not found:
        _fail(f"there is no open episode {episode!r}: rlhfd alerts list shows them")
    if json:
        typer.echo(msgspec.json.encode(found[0]).decode())
        return
    one = found[0]
    typer.echo(_plain(f"{one['id']}  {one['severity']}  {one['run']}  since {_moment(one['since'])}"))
    typer.echo(_plain(f"{one['summary']}\n{one['remedy']}\n{_standing(one)}"))
    for labels in one["alerts"]:
        typer.echo(_plain("  " + " ".join(f'{name}="{value}"' for name, value in sorted(labels.items()))))
    if one["firing"] > len(one["alerts"]):
        typer.echo(f"  and {one['firing'] - len(one['alerts'])} more")


@alerts.command("ack")
def ack_alert(
    episode: Annotated[str, typer.Argument(metavar="EPISODE")],
    author: _Author = "",
    comment: _Comment = "",
    config: _Config = None,
) -> None:
    """Look after an episode: it is not told again, unless it gets worse or opens again."""
    body = {"episode": episode, "author": author or _me(), "comment": comment}
    answer = _ask("POST", "/api/v1/alerts/ack", body, config)
    typer.echo(_plain(f"{episode}: acknowledged by {answer['author']}"))


@silence.command("add")
def add_silence(
    matchers: _Matchers,
    duration: Annotated[str, typer.Option("--duration", "-d", help="How long, like 2h or 1d.")] = "1h",
    author: _Author = "",
    comment: _Comment = "",
    config: _Config = None,
) -> None:
    """Silence the alerts that meet all matchers. It is on disk when this command returns."""
    from rlhfd_alerts.durations import parse_duration

    try:
        seconds = parse_duration(duration)
    except ValueError as error:
        _fail(f"--duration: {error}")
    body = {"matchers": matchers, "author": author or _me(), "comment": comment, "seconds": seconds}
    typer.echo(_ask("POST", "/api/v1/silences", body, config)["id"])


@silence.command("list")
def list_silences(
    config: _Config = None,
    json: _Json = False,
    expired: Annotated[bool, typer.Option("--expired", help="Also those that are over.")] = False,
) -> None:
    """Show the silences."""
    answer = _ask("GET", "/api/v1/silences", None, config)
    shown = [one for one in answer["silences"] if expired or one["state"] != "expired"]
    rows = [
        (one["id"], one["state"], " ".join(one["matchers"]), _moment(one["ends_at"]), one["author"], one["comment"])
        for one in shown
    ]
    columns = ("silence", "state", "matchers", "until", "author", "comment")
    _show({"silences": shown}, json, columns, rows, "there is no silence")


@silence.command("expire")
def expire_silence(id_: Annotated[str, typer.Argument(metavar="SILENCE")], config: _Config = None) -> None:
    """End a silence now."""
    _ask("POST", "/api/v1/silences/expire", {"id": id_}, config)
    typer.echo(f"{id_}: expired")


@outbox.command("list")
def list_outbox(
    dead: Annotated[bool, typer.Option("--dead", help="Only what was given up.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Also what was delivered.")] = False,
    target: _Target = "",
    config: _Config = None,
    json: _Json = False,
) -> None:
    """Show the messages that are owed or were given up, newest first."""
    state = "dead" if dead else ""
    answer = _ask("GET", f"/api/v1/outbox?state={state}&target={target}", None, config)
    found = [one for one in answer["messages"] if every or dead or one["state"] != "delivered"]
    rows = [
        (
            one["id"], one["target"], one["state"], str(one["attempts"]), _moment(one["created_at"]),
            one.get("summary", ""), one["last_error"] or "",
        )
        for one in found
    ]  # fmt: skip
    columns = ("message", "target", "state", "attempts", "since", "summary", "last error")
    _show({"messages": found}, json, columns, rows, "nothing is owed")


@outbox.command("retry")
def retry_outbox(
    id_: Annotated[Optional[str], typer.Argument(metavar="[MESSAGE]")] = None,  # noqa: UP045
    target: _Target = "",
    config: _Config = None,
) -> None:
    """Try again what is owed or given up (all, of one target, or one message), also targets that are disabled."""
    answer = _ask("POST", "/api/v1/outbox/retry", {"id": id_ or "", "target": target}, config)
    typer.echo(f"{answer['messages']} messages are tried again")


@outbox.command("drop")
def drop_outbox(
    id_: Annotated[Optional[str], typer.Argument(metavar="[MESSAGE]")] = None,  # noqa: UP045
    target: _Target = "",
    dead: Annotated[bool, typer.Option("--dead", help="Only what was given up.")] = False,
    config: _Config = None,
) -> None:
    """Forget an undelivered message, or all undelivered ones of a target."""
    body = {"id": id_ or "", "target": target, "state": "dead" if dead else ""}
    typer.echo(f"{_ask('POST', '/api/v1/outbox/drop', body, config)['messages']} messages dropped")


@route.command("test")
def would_tell(
    labels: Annotated[list[str], typer.Argument(metavar="LABEL=VALUE...", help="Labels of an alert.")],
    config: _Config = None,
) -> None:
    """Say who would be told of an alert with these labels, by which route and with which timing. Needs no daemon."""
    import time

    from rlhfd_alerts.durations import spell_duration
    from rlhfd_daemon.cli import one_line_errors
    from rlhfd_daemon.config import read_config
    from rlhfd_daemon.config_alerts import routing_of

    given = dict(part.partition("=")[::2] for part in labels)
    with one_line_errors():
        settings = read_config(config)[0]
        routing = routing_of(settings.alerts)
    found = routing.targets_for(given, tuple(settings.targets))
    if not found:
        typer.echo("nobody is told")
    for target, taken in found.items():
        timing = taken.timing
        muted = routing.muted_by(taken, time.time())
        typer.echo(
            f"{target}: route {taken.id}, group_by {','.join(timing.group_by) or '-'}, "
            f"group_wait {spell_duration(timing.wait_seconds)}, group_interval "
            f"{spell_duration(timing.interval_seconds)}, repeat_interval {spell_duration(timing.repeat_seconds)}"
            + (f"; muted now by {muted}" if muted else "")
        )


def _ask(method: str, url: str, body: object, config: Path | None) -> dict[str, Any]:
    from rlhfd_daemon.app import control_socket_of
    from rlhfd_daemon.cli import one_line_errors
    from rlhfd_daemon.config import read_config
    from rlhfd_daemon.control import ask

    with one_line_errors():
        return ask(control_socket_of(read_config(config)[0]), method, url, body)


def _show(answer: object, json: bool, columns: tuple[str, ...], rows: Sequence[Sequence[str]], empty: str) -> None:
    from rlhfd_daemon.render import console

    if json:
        typer.echo(msgspec.json.encode(answer).decode())
        return
    shown: RenderableType = Text(empty)
    if rows:
        table = shown = Table(*columns)
        for row in rows:
            table.add_row(*(Text(_plain(cell)) for cell in row))
    console().print(shown)


def _standing(one: dict[str, Any]) -> str:
    told = [name for name, severity in one["targets"].items() if severity]
    parts = [f"told to {', '.join(told)}" if told else "told to nobody"]
    if one["muted"]:
        parts.append(one["muted"])
    if one["acknowledged"]:
        parts.append(f"acknowledged by {one['acknowledged']['author']}")
    if one["held_until"]:
        parts.append(f"flapping: over if it holds until {_moment(one['held_until'])}")
    return "; ".join(parts)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return "unknown"


def _fail(message: str) -> NoReturn:
    typer.echo(f"rlhfd: {message}", err=True)
    raise typer.Exit(2)
