"""The command `rlhfd check`: exit code 0 clean, 1 warnings, 2 critical, 3 bad input."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from typer.core import TyperCommand

from rlhfd_daemon.errors import DaemonError, TraceError

if TYPE_CHECKING:
    from rlhfd_daemon.traces import Damaged

__all__ = ["CheckCommand", "check_command", "shown"]

BAD_INPUT = 3
MAX_DAMAGES_SHOWN = 5

PathArgument = Annotated[Path, typer.Argument(metavar="PATH", help="A log file, or a folder that holds one log.")]
ConfigOption = Annotated[Optional[Path], typer.Option("--config", "-c", help="The daemon's configuration file.")]  # noqa: UP045 - typer reads the annotation at run time
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line for each alert.")]
UncheckedOption = Annotated[bool, typer.Option("--unchecked", help="Which rules could not be looked at, and why.")]
TrendsOption = Annotated[bool, typer.Option("--trends", help="Also how each metric went, by epoch or 100 steps.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="A damaged place is bad input (exit code 3).")]


_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # click's own, or the copy that newer typers carry


class CheckCommand(TyperCommand):
    """Wrong usage is bad input here: exit code 2 would tell a CI job of a critical alert."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(context, args)
        except _UsageError as error:
            error.exit_code = BAD_INPUT  # type: ignore[attr-defined]
            raise


def check_command(
    path: PathArgument,
    config: ConfigOption = None,
    json: JsonOption = False,
    strict: StrictOption = False,
    trends: TrendsOption = False,
    unchecked: UncheckedOption = False,
) -> None:
    """Run the analyzers over a finished or running log: rlhfd's frame log, JSON lines, TensorBoard events, CSV,
    trainer_state.json, a wandb offline run or a verl console log, also gzipped, with the names of OpenRLHF, TRL or
    verl. Exit code 0: clean, 1: warnings, 2: critical, 3: bad input."""
    from rlhfd_daemon.cli import one_line_errors
    from rlhfd_daemon.config import read_config

    with one_line_errors():
        try:
            code = _checked(path, read_config(config)[0].analyzers, json, shown(strict), trends, unchecked)
        except DaemonError as error:
            raise TraceError(str(error)) from error
        raise typer.Exit(code)


def _checked(
    path: Path, analyzers: Any, as_json: bool, damaged: Callable[[Damaged], None], with_trends: bool, unchecked: bool
) -> int:
    from rlhfd_daemon import trends_report, unchecked_report
    from rlhfd_daemon.analyzers.trends import Trends
    from rlhfd_daemon.check import Check, alert_of
    from rlhfd_daemon.check_report import Report

    trends = Trends()
    check = Check(path, analyzers, damaged, trends if with_trends else None)
    console = Console(highlight=False, soft_wrap=True)
    report = Report(console.width)
    for transition in check.transitions():
        if as_json:
            _echo(alert_of(transition, check.has_times))
        else:
            report.add(transition)
    if as_json:
        for one in (*trends_report.objects(trends), *unchecked_report.objects(check.unchecked() if unchecked else ())):
            _echo(one)
    else:
        lacking = unchecked_report.lines(check.unchecked(), console.width, unchecked)
        for line in (*trends_report.lines(trends), *lacking, *report.lines(check)):
            console.print(line)
    return check.exit_code


def _echo(one: Mapping[str, object]) -> None:
    typer.echo(jsonlib.dumps(one, ensure_ascii=False, allow_nan=False))


def shown(strict: bool) -> Callable[[Damaged], None]:
    """What to do with damage: the first places are named on stderr, or the first one is the end."""
    count = 0

    def damaged(one: Damaged) -> None:
        nonlocal count
        count += 1
        if strict:
            raise TraceError(f"{one}; without --strict it is skipped")
        if count <= MAX_DAMAGES_SHOWN:
            typer.echo(f"rlhfd: damaged, skipped: {one}", err=True)
        elif count == MAX_DAMAGES_SHOWN + 1:
            typer.echo("rlhfd: more damaged places are skipped without a line each", err=True)

    return damaged
