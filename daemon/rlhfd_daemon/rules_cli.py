"""The command `rlhfd rules`: the catalogue on a terminal, as JSON, or as the page docs/rules.md; tests of one's own."""

from __future__ import annotations

from typing import Annotated, Optional

import msgspec
import typer
from rich.console import Console

from rlhfd_daemon import rules_test_cli
from rlhfd_daemon.errors import DaemonError
from rlhfd_daemon.metrics_cli import nearest

__all__ = ["app"]

app = typer.Typer(help="What is watched out for, and what to do about it.", no_args_is_help=True)
app.command("test")(rules_test_cli.test_command)

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command("list")
def list_command(
    family: Annotated[Optional[str], typer.Option("--family", help="Only this family.")] = None,  # noqa: UP045 - typer reads the annotation at run time
    json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The page docs/rules.md.")] = False,
) -> None:
    """Show all rules, or those of one family."""
    from rlhfd_daemon.analyzers.families import FAMILIES
    from rlhfd_daemon.cli import one_line_errors
    from rlhfd_daemon.rules import rendering
    from rlhfd_daemon.rules.catalogue import CATALOGUE

    with one_line_errors():
        if markdown:
            typer.echo(rendering.markdown(), nl=False)
            return
        if family is not None and family not in FAMILIES:
            raise DaemonError(f"{family}: no family of this name{nearest(family, list(FAMILIES))}")
        rules = [rule for rule in CATALOGUE if family in (None, rule.family)]
        if json:
            typer.echo(msgspec.json.encode(rules).decode())
        else:
            Console().print(rendering.table(rules))


@app.command("show")
def show_command(
    rule_id: Annotated[str, typer.Argument(metavar="ID", help="As alerts name it, such as kl_high.")],
    json: JsonOption = False,
) -> None:
    """Show one rule: when it counts, where its limits come from, and what to do."""
    from rlhfd_daemon.cli import one_line_errors
    from rlhfd_daemon.rules import rendering
    from rlhfd_daemon.rules.catalogue import CATALOGUE, find

    with one_line_errors():
        rule = find(rule_id)
        if rule is None:
            raise DaemonError(f"{rule_id}: no rule of this name{nearest(rule_id, [one.id for one in CATALOGUE])}")
        typer.echo(msgspec.json.encode(rule).decode() if json else rendering.entry(rule))
