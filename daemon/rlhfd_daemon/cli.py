"""The command line: parses, calls, and turns every error of ours into one line and an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import msgspec
import typer
from rich.console import Console
from rich.text import Text

import rlhfd_daemon
from rlhfd_alerts.errors import AlertsError
from rlhfd_daemon import (
    alerts_cli,
    check_cli,
    checkpoint_cli,
    gpu_cli,
    metrics_cli,
    notify_cli,
    reward_cli,
    rules_cli,
    runs_cli,
)
from rlhfd_daemon.config import DEFAULT_CONFIG, read_config
from rlhfd_daemon.errors import FAILED, DaemonError

FOUND_DAMAGE = 1

app = typer.Typer(
    name="rlhfd",
    help="Watches OpenRLHF runs: records their metrics, notices when one goes wrong and says so.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
frames = typer.Typer(help="Look into recorded frames.", no_args_is_help=True)
config_app = typer.Typer(help="The configuration file.", no_args_is_help=True)
app.add_typer(frames, name="frames")
app.add_typer(config_app, name="config")
app.add_typer(alerts_cli.alerts, name="alerts")
app.add_typer(alerts_cli.silence, name="silence")
app.add_typer(alerts_cli.outbox, name="outbox")
app.add_typer(alerts_cli.route, name="route")
app.add_typer(gpu_cli.app, name="gpu")
app.add_typer(notify_cli.app, name="notify")
app.add_typer(reward_cli.app, name="reward")
app.add_typer(rules_cli.app, name="rules")
app.command("check", cls=check_cli.CheckCommand)(check_cli.check_command)
app.command("checkpoint", cls=check_cli.CheckCommand)(checkpoint_cli.checkpoint_command)
app.command("checkpoints")(checkpoint_cli.checkpoints_command)
app.command("metrics")(metrics_cli.show)
app.command("runs")(runs_cli.runs_command)
app.command("topology")(runs_cli.topology_command)

ConfigOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads the annotation at run time, on Python 3.10 too
    typer.Option("--config", "-c", help=f"TOML file (default: {DEFAULT_CONFIG} if it exists, else built-in defaults)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
LogArgument = Annotated[Path, typer.Argument(metavar="LOG", help="A frame-log directory or one segment (.xz, .gz).")]


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Errors of ours end the command with their text; a reader that went away (`| head`) ends it quietly."""
    try:
        yield
    except (DaemonError, AlertsError) as error:
        typer.echo(f"rlhfd: {error}", err=True)
        raise typer.Exit(getattr(error, "exit_code", FAILED)) from error
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from error


def version(value: bool) -> None:
    if value:
        typer.echo(f"rlhfd {rlhfd_daemon.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Watches OpenRLHF runs: records their metrics, notices when one goes wrong and says so."""


@app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_command(context: typer.Context) -> None:
    """Run an OpenRLHF command under observation: rlhfd run [--run NAME] -- COMMAND ..."""
    from rlhfd_emitter.launch import main as launch

    raise typer.Exit(launch(context.args))


@app.command("doctor", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def doctor_command(context: typer.Context) -> None:
    """Say for this (training) environment what rlhfd attaches to, what it does not and why."""
    from rlhfd_emitter.doctor import main as doctor

    raise typer.Exit(doctor(context.args))


@app.command("daemon", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def daemon_command(context: typer.Context) -> None:
    """Run the daemon in the foreground (SIGHUP reloads the configuration, SIGTERM stops)."""
    from rlhfd_daemon.service import main as service

    raise typer.Exit(service(context.args))


@app.command("status")
def status_command(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the running daemon, its runs and what is firing."""
    from rlhfd_daemon.app import control_socket_of
    from rlhfd_daemon.control import ask
    from rlhfd_daemon.render import console, render

    with one_line_errors():
        answer = ask(control_socket_of(read_config(config)[0]), "GET", "/api/v1/status")
        if json:
            typer.echo(msgspec.json.encode(answer).decode())
        else:
            console().print(render(answer))


@app.command("mute")
def mute_command(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    off: Annotated[bool, typer.Option("--off", help="Let it speak again.")] = False,
    config: ConfigOption = None,
) -> None:
    """Make all emitters of a run stop sending, within a second."""
    from rlhfd_daemon.app import control_socket_of
    from rlhfd_daemon.control import ask

    with one_line_errors():
        body = {"run": run, "muted": not off}
        answer = ask(control_socket_of(read_config(config)[0]), "POST", "/api/v1/mute", body)
        typer.echo(f"{run}: {'speaking again' if off else 'muted'}, {answer['streams']} live streams told")


def say_damaged(one: object) -> None:
    typer.echo(f"damaged: {one}", err=True)


@app.command("replay")
def replay_command(
    log: LogArgument,
    config: ConfigOption = None,
    speed: Annotated[
        float, typer.Option(min=0.0, help="Multiple of the recorded pace; 0 is as fast as possible.")
    ] = 0.0,
) -> None:
    """Play a recording through the analyzers and print what the webhooks would get, one JSON object a line."""
    from rlhfd_daemon.replay import replay

    with one_line_errors():
        read = read_config(config)[0]
        targets = tuple(read.targets) or ("replay",)
        for line in replay(log, read.analyzers, read.alerts, targets=targets, speed=speed, damaged=say_damaged):
            typer.echo(line.decode())
            sys.stdout.flush()


@frames.command("verify")
def verify_command(log: LogArgument, json: JsonOption = False) -> None:
    """Check every record of a frame log; exit code 1 if anything is damaged."""
    from rlhfd_daemon.recording import verify

    with one_line_errors():
        report = verify(log)
        if json:
            typer.echo(msgspec.json.encode(report).decode())
        else:
            typer.echo(
                f"{report.segments} segments, {report.records} records, ids {report.first_id} to {report.last_id}"
            )
            for damage in report.damages:
                typer.echo(f"damaged: {damage}")
            for gap in report.gaps:
                typer.echo(f"ids missing: {gap}")
        if report.damages:
            raise typer.Exit(FOUND_DAMAGE)


@frames.command("dump")
def dump_command(log: LogArgument) -> None:
    """Print every record as one JSON object a line."""
    from rlhfd_daemon.dump import dump

    with one_line_errors():
        for line in dump(log):
            typer.echo(line.decode())


@config_app.command("check")
def check_command(
    path: Annotated[Optional[Path], typer.Argument(metavar="[FILE]")] = None,  # noqa: UP045
) -> None:
    """Say whether a configuration file is good, and every reason why not. Warnings are no mistakes, but may be."""
    from rlhfd_daemon.delivery import check_targets
    from rlhfd_daemon.outlets.access import read_token
    from rlhfd_daemon.rules.configured import hints_of

    with one_line_errors():
        settings, source = read_config(path)
        check_targets(settings, os.environ)
        read_token(settings.http, os.environ)
        for hint in hints_of(settings.analyzers.rules):
            typer.echo(f"warning: {hint.field}: {hint.message}", err=True)
        typer.echo(f"{source or 'built-in defaults'}: good; targets: {', '.join(settings.targets) or 'none'}")


@app.command("demo")
def demo_command(
    recording: Annotated[Optional[Path], typer.Argument(metavar="[LOG]", help="Another recording.")] = None,  # noqa: UP045
) -> None:
    """Play a recorded OpenRLHF run with a fault through emitter, daemon and webhook, all on this machine."""
    from rlhfd_daemon.demo import Demo

    console = Console()

    def say(text: Any) -> None:
        console.print(text if not isinstance(text, str) else Text(text))

    with one_line_errors():
        raise typer.Exit(asyncio.run(Demo(recording, say).run()))
