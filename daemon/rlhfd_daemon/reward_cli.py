"""The commands `rlhfd reward FILE` and `rlhfd reward probe`: exit code 0 clean, 1 warnings, 2 critical, 3 bad input."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from typer.core import TyperGroup

from rlhfd_daemon.check_cli import CheckCommand, shown
from rlhfd_daemon.errors import DaemonError, TraceError
from rlhfd_daemon.reward_probe_cli import probe_command

__all__ = ["app"]

_DEFAULT = "judge"


class RewardGroup(TyperGroup):
    """`rlhfd reward FILE` is `rlhfd reward judge FILE`."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [_DEFAULT, *args]
        return super().parse_args(context, args)


app = typer.Typer(
    cls=RewardGroup,
    no_args_is_help=True,
    help="Whether a reward can be trusted: rlhfd reward FILE, rlhfd reward probe.",
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, an answer a line, or a frame log.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object.")]
HtmlOption = Annotated[Optional[Path], typer.Option("--html", metavar="OUT", help="Also write the report as a page.")]  # noqa: UP045 - typer reads the annotation at run time
ColumnOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--column", metavar="OURS=THEIRS", help="Which column of the file means what, e.g. reward=my_score."),
]
ClipOption = Annotated[
    Optional[tuple[float, float]],  # noqa: UP045
    typer.Option("--clip", metavar="LOW HIGH", help="The reward's clip range (--reward.clip_range)."),
]
EstimatorOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--estimator", help="How advantages were made; group_norm, rloo and dr_grpo are also recognised."),
]
WindowOption = Annotated[int, typer.Option("--window", min=64, max=65536, help="Samples that are judged together.")]
LateOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--late-seconds", min=0.0, help="A reward call that takes longer is late."),
]
RunOption = Annotated[Optional[str], typer.Option("--run", help="Which run of a frame log.")]  # noqa: UP045
StrictOption = Annotated[bool, typer.Option("--strict", help="A damaged line is bad input (exit code 3).")]


app.command("probe", cls=CheckCommand)(probe_command)


@app.command(_DEFAULT, cls=CheckCommand)
def judge_command(
    file: FileArgument,
    json: JsonOption = False,
    html: HtmlOption = None,
    column: ColumnOption = None,
    clip: ClipOption = None,
    estimator: EstimatorOption = None,
    window: WindowOption = 512,
    late_seconds: LateOption = None,
    strict: StrictOption = False,
    run: RunOption = None,
) -> None:
    """Judge the rewards of a file of scored answers (prompt, response or its length, reward, advantage, label, kl,
    step, eval_reward ..., also under OpenRLHF's, TRL's and verl's names). Exit code 0: clean, 1: warnings, 2: critical,
    3: bad input."""
    from rlhfd_daemon.cli import one_line_errors
    from rlhfd_daemon.rewards.advantages import ESTIMATORS
    from rlhfd_daemon.rewards.window import Settings

    with one_line_errors():
        if estimator is not None and estimator not in ESTIMATORS:
            raise TraceError(f"--estimator {estimator}: not known; there are {', '.join(ESTIMATORS)}")
        if clip is not None and not clip[0] < clip[1]:
            raise TraceError(f"--clip {clip[0]:g} {clip[1]:g}: the first must be less than the second")
        settings = Settings(window, clip, estimator, late_seconds)
        try:
            samples = (file, run, _named(column or []))
            code = _judged(samples, settings, json, html, strict)
        except DaemonError as error:
            raise TraceError(str(error)) from error
        raise typer.Exit(code)


def _named(columns: list[str]) -> dict[str, str]:
    named = {}
    for one in columns:
        ours, equals, theirs = one.partition("=")
        if not equals or not theirs:
            raise TraceError(f"--column {one}: must be OURS=THEIRS, such as reward=my_score")
        named[ours] = theirs
    return named


def _judged(
    samples: tuple[Path, str | None, dict[str, str]], settings: Any, as_json: bool, html: Path | None, strict: bool
) -> int:
    from rlhfd_daemon import reward_page, reward_report
    from rlhfd_daemon.rewards.analysis import Analysis
    from rlhfd_daemon.rewards.reading import read
    from rlhfd_daemon.rewards.sample import Columns
    from rlhfd_daemon.traces.row import Damaged

    say, damages = shown(strict), 0

    def damaged(one: Damaged) -> None:
        nonlocal damages
        damages += 1
        say(one)

    file, run, named = samples
    analysis, columns = Analysis(settings), Columns(named)
    for sample in read(file, columns, damaged, run):
        analysis.add(sample)
    analysis.finish()
    if html is not None:
        _write(html, reward_page.page(analysis, str(file), damages))
    if as_json:
        found = reward_report.object_of(analysis, str(file), damages, columns.used)
        typer.echo(jsonlib.dumps(found, ensure_ascii=False, allow_nan=False))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for line in reward_report.lines(analysis, str(file), damages, console.width):
            console.print(line)
    return reward_report.exit_code(analysis.issues())


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise TraceError(f"--html {path}: cannot be written: {error.strerror}") from error
