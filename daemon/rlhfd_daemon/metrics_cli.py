"""The command `rlhfd metrics`: the registry on a terminal, as JSON, or as the page docs/metrics.md."""

from __future__ import annotations

import difflib
from typing import Annotated, Optional

import msgspec
import typer
from rich.console import Console

from rlhfd_daemon.errors import DaemonError

__all__ = ["show"]


def show(
    key: Annotated[Optional[str], typer.Argument(metavar="[KEY]", help="A key of OpenRLHF, TRL or verl.")] = None,  # noqa: UP045 - typer reads the annotation at run time
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The page docs/metrics.md.")] = False,
) -> None:
    """Show what metrics mean: all of them, or one by its key."""
    from rlhfd_daemon.cli import one_line_errors
    from rlhfd_daemon.metrics import TABLE, find, rendering

    with one_line_errors():
        if markdown:
            typer.echo(rendering.markdown(), nl=False)
            return
        row = None if key is None else find(key)
        if key is not None and row is None:
            raise DaemonError(f"{key}: no metric of this name{nearest(key, [known.name for known in TABLE])}")
        if json:
            typer.echo(msgspec.json.encode(TABLE if row is None else row).decode())
        elif row is not None:
            typer.echo(rendering.entry(row))
        else:
            Console().print(rendering.table())


def nearest(key: str, names: list[str]) -> str:
    """`; did you mean "..."?`, or nothing if no name is near."""
    bare = {name.partition("/")[2]: name for name in names}
    near = difflib.get_close_matches(key, [*names, *bare], n=1)
    return f'; did you mean "{bare.get(near[0], near[0])}"?' if near else ""
