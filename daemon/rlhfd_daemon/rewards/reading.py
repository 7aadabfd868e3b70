"""A file of scored answers, one JSON object a line: read line by line, what is bad is told and passed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.rewards.sample import Columns, Sample
from rlhfd_daemon.traces.jsonl import parsed
from rlhfd_daemon.traces.row import Report
from rlhfd_daemon.traces.source import Source

__all__ = ["read"]

_MAX_SHOWN = 20  # columns


def read(path: Path, columns: Columns, damaged: Report) -> Iterator[Sample]:
    """The samples of ``path`` (also gzip or xz). The last line may be one that is still being written.

    :raises TraceError: the file cannot be read, is empty, or no line of it has a reward.
    """
    source = Source(path, damaged)
    source.head()  # says what is wrong with a file that is none
    seen: dict[str, None] = {}
    scored = False
    for line in source.lines():
        if not line.text.strip():
            continue
        row = parsed(line.text)
        if not isinstance(row, dict):
            if line.ended:
                source.damaged(f"line {line.number}", "not a JSON object")
            continue
        if len(seen) < _MAX_SHOWN:
            seen.update(dict.fromkeys(row))
        sample = columns.sample(row)
        if sample is None:
            source.damaged(f"line {line.number}", "none of its columns is known")
            continue
        scored = scored or sample.reward is not None
        yield sample
    if not scored:
        known = ", ".join(list(seen)[:_MAX_SHOWN]) or "none"
        raise TraceError(
            f"{path}: no line has a reward; its columns are: {known}. Name the right one: --column reward=NAME"
        )
