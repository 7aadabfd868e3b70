"""What `rlhfd reward` tells people and programs: issues, the worst first, and the tables behind them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.check_report import STYLES
from rlhfd_daemon.render import plain
from rlhfd_daemon.rewards.analysis import Analysis
from rlhfd_daemon.rewards.facts import Cell, issue_object, tables
from rlhfd_daemon.rewards.issues import KINDS, Issue

__all__ = ["cell_text", "exit_code", "extent", "lines", "object_of"]

_INDENT = " " * 10
_MAX_ISSUES = 50


def exit_code(issues: list[Issue]) -> int:
    """0 clean, 1 warnings, 2 critical; what is only worth knowing is clean."""
    return max((issue.severity.rank for issue in issues), default=0)


def object_of(analysis: Analysis, path: str, damages: int, columns: Mapping[str, str]) -> dict[str, Any]:
    """Everything for a program; what is no finite number is ``null``."""
    found = analysis.issues()
    cleaned: dict[str, Any] = _jsonable({
        "file": path,
        "samples": analysis.overview.samples,
        "damaged": damages,
        "columns": dict(columns),
        "exit_code": exit_code(found),
        "issues": [issue_object(issue) for issue in found],
        **{table.key: table.objects() for table in tables(analysis)},
    })  # fmt: skip
    return cleaned


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_jsonable(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines(analysis: Analysis, path: str, damages: int, width: int) -> Iterator[RenderableType]:
    """The report for a terminal of ``width`` columns."""
    for table in tables(analysis):
        yield _rendered(table.title, table.columns, table.rows)
        if table.note:
            yield Text(plain(table.note), "dim")
        yield Text("")
    found = analysis.issues()
    for issue in found[:_MAX_ISSUES]:
        yield from _block(issue, max(60, min(width, 120)) - len(_INDENT))
    if len(found) > _MAX_ISSUES:
        yield Text(f"and {len(found) - _MAX_ISSUES} more")
    counts = {severity: sum(1 for issue in found if issue.severity is severity) for severity in reversed(Severity)}
    told = ", ".join(f"{count} {severity.value}" for severity, count in counts.items() if count) or "nothing found"
    skipped = f", {damages} damaged places skipped" if damages else ""
    yield Text(plain(f"{analysis.overview.samples} samples read from {path}{skipped}; {told}."))


def _rendered(title: str, columns: tuple[str, ...], rows: tuple[tuple[Cell, ...], ...]) -> RichTable:
    """Columns of which nothing is known are left out."""
    table = RichTable(title=Text(plain(title)), title_justify="left")
    used = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    for at in used:
        numeric = all(isinstance(row[at], (int, float, type(None))) for row in rows)
        table.add_column(columns[at].replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell_text(row[at]))) for at in used))
    return table


def cell_text(cell: Cell) -> str:
    """Four significant digits; nothing for what is unknown."""
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _block(issue: Issue, width: int) -> Iterator[Text]:
    first, *rest = textwrap.wrap(plain(issue.summary), width) or [""]
    yield Text.assemble((f"{issue.severity.value.upper():<10}", STYLES[issue.severity]), (first, "bold"))
    yield from (Text(_INDENT + line, "bold") for line in rest)
    yield Text(f"{_INDENT}{issue.kind}, {extent(issue)}")
    yield from (Text(_INDENT + line) for line in textwrap.wrap(KINDS[issue.kind].remedy, width))
    yield Text("")


def extent(issue: Issue) -> str:
    """Where the issue is: steps if the file has them, else samples."""
    if issue.first_step is None or issue.last_step is None:
        return f"samples {issue.first} to {issue.last}"
    if issue.first_step == issue.last_step:
        return f"step {issue.first_step}"
    return f"steps {issue.first_step} to {issue.last_step}"
