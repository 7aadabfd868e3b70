"""The benchmark's tables, as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from detecting.scoring import Verdict
from detecting.summary import Interval, Summary, summary

__all__ = ["HEAD", "finite", "per_fault", "row", "table"]

HEAD = (
    "", "found", "recall", "delay median", "p90", "false/1000", "(episodes/steps)", "misnamed first/at all", "chance",
    "episodes/fault",
)  # fmt: skip


def per_fault(verdicts: Sequence[Verdict]) -> dict[str, Summary]:
    """A summary for each kind of fault, of the runs that have it."""
    faults = sorted({one.label.fault for one in verdicts if one.label.fault and one.label.is_scored})
    return {fault: summary([one for one in verdicts if one.label.fault == fault]) for fault in faults}


def row(name: str, of: Summary, chance: float = math.nan) -> tuple[str, ...]:
    """The cells of one line under :data:`HEAD`."""
    return (
        name,
        f"{of.found}/{of.runs}",
        _with_interval(of.recall, 2),
        _with_interval(of.median_delay, 1),
        _with_interval(of.p90_delay, 0),
        _with_interval(of.false_per_1000, 2),
        f"{of.false_episodes}/{of.clean_steps}",
        f"{_number(of.misnamed_first, 2)}/{_number(of.misnamed, 2)}",
        _number(chance, 3),
        _number(of.episodes_per_fault, 1),
    )


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = HEAD) -> Iterator[str]:
    """Lines of aligned columns."""
    cells = [tuple(head), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        first, *rest = [
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join([first, *rest]).rstrip()


def finite(summaries: Mapping[str, Summary]) -> dict[str, Any]:
    """For JSON, which has no NaN: ``None`` instead."""
    return {name: _plain(asdict(one)) for name, one in summaries.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _with_interval(of: Interval, digits: int) -> str:
    if math.isnan(of.value):
        return "-"
    return f"{of.value:.{digits}f} [{of.low:.{digits}f} {of.high:.{digits}f}]"
