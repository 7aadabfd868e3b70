"""The command `rlhfd checkpoint`: exit code 0 healthy, 1 warnings, 2 critical, 3 bad input. Needs no daemon."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from rlhfd_alerts.finding import Severity

if TYPE_CHECKING:
    from rlhfd_daemon.checkpoints.layout import Description
    from rlhfd_daemon.checkpoints.report import Report

__all__ = ["checkpoint_command", "checkpoints_command"]

BAD_INPUT = 3
_CODES = {None: 0, Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}

PathArgument = Annotated[
    Path, typer.Argument(metavar="PATH", help="A checkpoint's folder or file, or a folder of several.")
]
CompareOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads the annotation at run time
    typer.Option("--compare", metavar="OTHER", help="An earlier checkpoint to compare it with."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line for each checkpoint.")]
_Before = Optional["tuple[Path, Description]"]


def checkpoint_command(path: PathArgument, compare: CompareOption = None, json: JsonOption = False) -> None:
    """Judge checkpoints from their bytes: DeepSpeed's of any ZeRO stage, Hugging Face exports, adapters, single files;
    nothing in them is executed. Of a folder of several each is compared with the one before. Exit code 0: healthy, 1:
    warnings, 2: critical, 3: bad input."""
    from rlhfd_daemon.checkpoints.defect import Refused
    from rlhfd_daemon.errors import CheckpointError, DaemonError

    console, worst = Console(highlight=False, soft_wrap=True), 0
    try:
        for found, before in _pairs(path, compare):
            try:
                one = _judged(path, found, before)
            except Refused as refused:
                raise CheckpointError(str(refused)) from refused
            if json:
                typer.echo(jsonlib.dumps({"kind": "checkpoint", **one.as_json()}, ensure_ascii=False, allow_nan=False))
            else:
                from rlhfd_daemon.checkpoints.rendering import lines

                for line in lines(one, console.width):
                    console.print(line)
            worst = max(worst, _CODES[one.severity])
    except DaemonError as error:
        typer.echo(f"rlhfd: {error}", err=True)
        raise typer.Exit(BAD_INPUT) from error
    raise typer.Exit(worst)


def checkpoints_command(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    config: Annotated[Optional[Path], typer.Option("--config", "-c", help="The daemon's configuration file.")] = None,  # noqa: UP045
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line for each checkpoint.")] = False,
) -> None:
    """Show what the daemon found of each checkpoint of a run, oldest first: health, drift, what is wrong."""
    from rlhfd_daemon.checkpoints.history import History
    from rlhfd_daemon.checkpoints.rendering import history
    from rlhfd_daemon.cli import one_line_errors
    from rlhfd_daemon.config import read_config
    from rlhfd_daemon.errors import CheckpointError

    with one_line_errors():
        kept = History(Path(read_config(config)[0].daemon.state_dir) / "runs")
        launches = kept.launches(run)
        if not launches:
            raise CheckpointError(f"no checkpoint of a run {run!r} was judged; rlhfd runs shows the names of runs")
        console = Console(highlight=False, soft_wrap=True)
        for boot in launches:
            found = kept.of(run, boot)
            if json:
                for one in found:
                    typer.echo(msgspec.json.encode({"boot": boot, **msgspec.to_builtins(one)}).decode())
            else:
                for line in history(boot, found):
                    console.print(line)


def _pairs(path: Path, compare: Path | None) -> Iterator[tuple[Description, tuple[Path, Description] | None]]:
    """Each checkpoint at ``path`` with the one that it is compared with."""
    from rlhfd_daemon.checkpoints.chains import before, chains
    from rlhfd_daemon.checkpoints.report import layout_of

    others = None if compare is None else chains(layout_of(compare))
    for chain in chains(layout_of(path)):
        for found in chain:
            if others is not None and compare is not None:
                yield found, (compare, _counterpart(chain[0], others, path, compare))
            else:
                yield found, next(((path, one) for one in before(found, chain)), None)


def _counterpart(found: Description, earlier: list[list[Description]], path: Path, compare: Path) -> Description:
    from rlhfd_daemon.errors import CheckpointError

    for chain in earlier:
        if (chain[0].kind == found.kind and chain[0].role in (found.role, None)) or len(earlier) == 1:
            return chain[-1]
    raise CheckpointError(f"{compare}: has nothing of the kind of {path} ({found.kind}, {found.role or 'no role'})")


def _judged(path: Path, found: Description, before: tuple[Path, Description] | None) -> Report:
    from rlhfd_daemon.checkpoints.report import report

    with _progress(found.path or path.name) as advance:
        return report(path, found, before, every_rank=True, progress=advance)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], object]]:
    """A bar on stderr, if that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
