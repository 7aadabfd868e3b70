"""Scored answers, from JSON lines or a frame log: read one by one, what is bad is told and passed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.rewards.recorded import is_frame_log, rows
from rlhfd_daemon.rewards.sample import Columns, Sample
from rlhfd_daemon.traces.jsonl import parsed
from rlhfd_daemon.traces.row import Report
from rlhfd_daemon.traces.source import Source

__all__ = ["read"]

_MAX_SHOWN = 20  # columns


def read(path: Path, columns: Columns, damaged: Report, run: str | None = None) -> Iterator[Sample]:
    """The samples of ``path``: JSON lines (also gzip or xz), of which the last may still be written, or a frame log
    and ``run`` in it.

    :raises TraceError: the file cannot be read, is empty, or nothing in it has a reward.
    """
    source = Source(path, damaged)
    log = is_frame_log(path)
    seen: dict[str, None] = {}
    scored = False
    for where, row in _lines(source) if log is None else (("", row) for row in rows(log, run, damaged)):
        if len(seen) < _MAX_SHOWN:
            seen.update(dict.fromkeys(row))
        sample = columns.sample(row)
        if sample is None:
            source.damaged(where, "none of its columns is known")
            continue
        scored = scored or sample.reward is not None
        yield sample
    if not scored:
        known = ", ".join(list(seen)[:_MAX_SHOWN]) or "none"
        raise TraceError(
            f"{path}: no line has a reward; its columns are: {known}. Name the right one: --column reward=NAME"
        )


def _lines(source: Source) -> Iterator[tuple[str, Mapping[str, object]]]:
    for line in source.lines():
        if not line.text.strip():
            continue
        row = parsed(line.text)
        if isinstance(row, dict):
            yield f"line {line.number}", row
        elif line.ended:
            source.damaged(f"line {line.number}", "not a JSON object")
