"""The benchmark's tables, as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from detecting.costs import Costs
from detecting.measure import Measured
from detecting.summary import Interval, Summary

__all__ = ["comparison", "cost_lines", "plain", "section", "table"]

HEAD = (
    "recall", "delay: median", "p90", "false per 1000", "false/clean steps", "misnamed: first, at all", "chance",
    "episodes per fault",
)  # fmt: skip


def section(one: Measured) -> Iterator[str]:
    """What there is to say of one group."""
    rows = [("all", *cells(one.whole, one.chance))]
    rows += [(name, *cells(of)) for kind in (one.faults, one.sizes) for name, of in kind.items()]
    yield ""
    yield from table(one.group, rows)
    if one.small_found[1]:
        yield f"of faults too small to be told: {one.small_found[0]} of {one.small_found[1]} were"
    yield from _remarks(one)


def comparison(found: Iterable[tuple[str, Measured]]) -> Iterator[str]:
    """A table for each group: ours, then the others."""
    by_group: dict[str, list[tuple[str, ...]]] = {}
    for name, one in found:
        by_group.setdefault(one.group, []).append((name, *cells(one.whole, one.chance)))
    for group, rows in by_group.items():
        yield ""
        yield from table(group, rows)


def cost_lines(of: Costs) -> Iterator[str]:
    yield ""
    early, late = of.early_microseconds, of.late_microseconds
    yield f"CPU per step of 20 metrics: {early:.0f} µs at step 300, {late:.0f} at 20,000"
    yield f"a million samples: {of.million_seconds:.2f} s"
    yield f"memory of one run of 20 metrics: {of.early_kib:.0f} KiB at step 300, {of.late_kib:.0f} at 20,000"


def cells(of: Summary, chance: float = math.nan) -> tuple[str, ...]:
    """Those of one line under :data:`HEAD`."""
    return (
        f"{of.found}/{of.runs} {_with_interval(of.recall, 2)}",
        _with_interval(of.median_delay, 1),
        _with_interval(of.p90_delay, 0),
        _with_interval(of.false_per_1000, 2),
        f"{of.false_episodes}/{of.clean_steps}",
        f"{_number(of.misnamed_first, 2)} {_number(of.misnamed, 2)}",
        _number(chance, 3),
        _number(of.episodes_per_fault, 1),
    )


def table(title: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of aligned columns."""
    lines = [(title, *HEAD), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        aligned = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *aligned]).rstrip()


def plain(value: Any) -> Any:
    """For JSON, which has no NaN: ``None`` instead."""
    if isinstance(value, (Summary, Costs)):
        return plain(asdict(value))
    if isinstance(value, Measured):
        kinds = {"faults": value.faults, "sizes": value.sizes}
        return plain({"chance": value.chance, "all": value.whole, "small_found": value.small_found, **kinds})
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _remarks(of: Measured) -> Iterator[str]:
    """A line for each run that was not judged as one would wish."""
    for one in of.verdicts:
        if one.label.is_scored and not one.named:
            first = "not found" if one.first is None else f"{one.first.family} by {one.first.rule} {one.first.metric}"
            yield f"  {one.label.name}: {first}"
        if one.false_episodes:
            yield f"  {one.label.name}: {one.false_episodes} false episodes in {one.label.clean_steps} steps"


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _with_interval(of: Interval, digits: int) -> str:
    if math.isnan(of.value):
        return "-"
    return f"{of.value:.{digits}f} [{of.low:.{digits}f} {of.high:.{digits}f}]"
