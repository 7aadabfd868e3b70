"""The command `rlhfd rules test`: exit code 0 all tests pass, 1 one fails, 3 bad input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console

from rlhfd_daemon.errors import ConfigError, DaemonError, TraceError

if TYPE_CHECKING:
    from rlhfd_alerts.alert import Transition
    from rlhfd_daemon.rules.user import RuleFile

__all__ = ["test_command"]

FAILED = 1

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file with [[rule]] and [[test]].")]
TraceArgument = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads the annotation at run time
    typer.Argument(metavar="[TRACE]", help="A log: say what the rules would have found in it, instead."),
]


def test_command(file: FileArgument, trace: TraceArgument = None) -> None:  # noqa: PT028 - a command, not a test of ours
    """Run the tests in a file of rules, or with TRACE its rules over a log of any format that `rlhfd check` reads.
    Exit code 0: all tests pass, 1: one fails, 3: bad input."""
    from rlhfd_daemon.cli import one_line_errors
    from rlhfd_daemon.rules.user import read_rules

    with one_line_errors():
        try:
            (rules,) = read_rules([file])
            for hint in rules.hints:
                typer.echo(f"{hint.field}: {hint.message}", err=True)
            code = _tested(rules) if trace is None else _tried(rules, trace)
        except (ConfigError, DaemonError) as error:
            raise TraceError(str(error)) from error
        raise typer.Exit(code)


def _tested(file: RuleFile) -> int:
    from rlhfd_daemon.rules.trial import Trial, failures

    failed = 0
    for test in file.tests:
        lines = failures(test, Trial(file.rules).of_test(test, file.path.parent))
        failed += bool(lines)
        typer.echo(f"{'FAILED' if lines else 'passed'}  {test.name}")
        for line in lines:
            typer.echo(f"        {line}")
    rules, tests = _counted(len(file.rules), "rule"), _counted(len(file.tests), "test")
    typer.echo(f"{rules}, {tests}, {failed} failed")
    return FAILED if failed else 0


def _tried(file: RuleFile, trace: Path) -> int:
    from rlhfd_daemon.rules.trial import Trial

    trial = Trial(file.rules)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    silent = {rule.id: "never fires" for rule in file.rules}
    for transition in trial.of_trace(trace):
        silent.pop(transition.alert.finding.rule, None)
        console.print(_line(transition))
    silent |= {one.rule: one.reason for one in trial.unchecked() if one.rule in silent}
    for rule, why in silent.items():
        console.print(f"{rule}: {why}")
    return 0


def _line(transition: Transition) -> str:
    finding, state = transition.alert.finding, transition.state.value
    where = "" if transition.alert.last_step is None else f" at step {transition.alert.last_step}"
    if state != "firing":
        return f"{finding.rule}: {state}{where}"
    since = "" if finding.onset_step is None else f" since step {finding.onset_step}"
    return f"{finding.rule}: {state}{where} ({finding.severity.value}{since}): {finding.summary}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
