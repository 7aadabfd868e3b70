"""The command `rlhfd reward probe`: exit code 0 as before, 1 a score changed or is missing, 2 no score, 3 bad input."""

from __future__ import annotations

import asyncio
import json as jsonlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from rlhfd_daemon.errors import DaemonError, TraceError
from rlhfd_daemon.render import plain
from rlhfd_daemon.rewards.canary import (
    Baseline,
    Budget,
    Change,
    Pair,
    budget_of,
    compare,
    read_baseline,
    read_pairs,
    write_baseline,
)
from rlhfd_daemon.rewards.scorers import FunctionScorer, HttpScorer, Scorer, score_all

__all__ = ["probe_command"]

PairsArgument = Annotated[
    Path, typer.Argument(metavar="PAIRS", help="JSON lines: query, or prompt and response; also label, id.")
]
UrlOption = Annotated[Optional[str], typer.Option("--url", help="The remote reward model (--reward.remote_url).")]  # noqa: UP045 - typer reads the annotation at run time
FunctionOption = Annotated[Optional[Path], typer.Option("--function", help="A file with reward_func.")]  # noqa: UP045
BaselineOption = Annotated[Path, typer.Option("--baseline", help="Scores to compare with; written if it is not there.")]
UpdateOption = Annotated[bool, typer.Option("--update", help="The new scores become the baseline.")]
ToleranceOption = Annotated[float, typer.Option("--tolerance", min=0.0, help="A change up to this is none.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.1, max=3600.0, help="Seconds for one call.")]
AttemptsOption = Annotated[int, typer.Option("--attempts", min=1, max=10, help="Calls for a pair until one succeeds.")]
PythonOption = Annotated[str, typer.Option("--python", help="The interpreter for --function.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one probe found. ``written``: the scores are the baseline now."""

    pairs: int
    scored: int
    compared: int
    changes: list[Change]
    failures: dict[str, str]
    budget: Budget
    written: bool

    @property
    def exit_code(self) -> int:
        """See the module."""
        if not self.scored:
            return 2
        return 1 if self.changes or self.failures else 0


def probe_command(
    pairs: PairsArgument,
    baseline: BaselineOption,
    url: UrlOption = None,
    function: FunctionOption = None,
    update: UpdateOption = False,
    tolerance: ToleranceOption = 0.0,
    timeout: TimeoutOption = 30.0,
    attempts: AttemptsOption = 1,
    python: PythonOption = sys.executable,
    json: JsonOption = False,
) -> None:
    """Score a fixed set of answers again, by a remote reward model or a reward function, and compare with last time.
    Exit code 0: all as before, 1: a score changed or is missing, 2: no score at all, 3: bad input."""
    from rlhfd_daemon.cli import one_line_errors

    with one_line_errors():
        try:
            if (url is None) == (function is None):
                raise TraceError("name one of --url and --function")
            scorer: Scorer = (
                HttpScorer(url, timeout) if url is not None else FunctionScorer(function or Path(), timeout, python)
            )
            outcome = asyncio.run(_probe(scorer, read_pairs(pairs), baseline, update, tolerance, attempts))
        except DaemonError as error:
            raise TraceError(str(error)) from error
        if json:
            typer.echo(jsonlib.dumps(_object(outcome), ensure_ascii=False, allow_nan=False))
        else:
            for line in _lines(outcome, baseline):
                typer.echo(plain(line))
        raise typer.Exit(outcome.exit_code)


async def _probe(
    scorer: Scorer, pairs: list[Pair], path: Path, update: bool, tolerance: float, attempts: int
) -> Outcome:
    before = read_baseline(path)
    try:
        scores, latencies, failures = await score_all(scorer, pairs, attempts)
    finally:
        await scorer.close()
    known = before or Baseline(scorer.name, {})
    writes = bool(scores) and (update or before is None)
    if writes:
        write_baseline(path, Baseline(scorer.name, {**known.scores, **scores}))
    return Outcome(
        len(pairs),
        len(scores),
        sum(1 for pair in pairs if pair.key in known.scores and pair.key in scores),
        compare(pairs, known, scores, tolerance),
        failures,
        budget_of(latencies),
        writes,
    )


def _lines(outcome: Outcome, baseline: Path) -> Iterator[str]:
    for one in outcome.changes:
        yield f"changed: {one.name}: {one.old:.8g} before, {one.new:.8g} now"
    for name, why in outcome.failures.items():
        yield f"no score: {name}: {why}"
    budget = outcome.budget
    times = ""
    if budget.p50_seconds is not None and budget.p95_seconds is not None and budget.p99_seconds is not None:
        times = f", p50 {budget.p50_seconds:.3f} s, p95 {budget.p95_seconds:.3f} s, p99 {budget.p99_seconds:.3f} s"
    yield f"{budget.calls} calls, {budget.failed} failed ({budget.failed_ratio:.1%}){times}"
    new = outcome.scored - outcome.compared
    yield (
        f"{outcome.compared} of {outcome.pairs} pairs compared with {baseline}, {len(outcome.changes)} changed"
        + (f", {new} not in it" if new else "")
        + ("; it has the new scores now" if outcome.written else "")
    )


def _object(outcome: Outcome) -> dict[str, Any]:
    """For a program; what is no finite number is a text."""

    def number(value: float) -> float | str:
        return value if math.isfinite(value) else str(value)

    budget = outcome.budget
    return {
        "pairs": outcome.pairs,
        "scored": outcome.scored,
        "compared": outcome.compared,
        "changes": [{"name": one.name, "old": number(one.old), "new": number(one.new)} for one in outcome.changes],
        "failures": outcome.failures,
        "calls": budget.calls,
        "failed": budget.failed,
        "failed_ratio": budget.failed_ratio,
        "latency_p50_seconds": budget.p50_seconds,
        "latency_p95_seconds": budget.p95_seconds,
        "latency_p99_seconds": budget.p99_seconds,
        "baseline_written": outcome.written,
        "exit_code": outcome.exit_code,
    }
