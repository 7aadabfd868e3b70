"""The numbers of single answers in a frame log, which a run sends that was started with ``rlhfd run --samples``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.frame import Frame, FrameError, decode
from rlhfd_daemon.segment import Damage
from rlhfd_daemon.traces import frames
from rlhfd_daemon.traces.row import Damaged, Report
from rlhfd_daemon.traces.source import Source

__all__ = ["EVENT", "is_frame_log", "rows"]

EVENT = "reward_samples"
MAX_SAMPLES = 1024  # of one frame
MAX_RUNS = 100


def is_frame_log(path: Path) -> Path | None:
    """The frame log at ``path``: a folder with segments, the daemon's state directory, or one segment."""
    if path.is_dir():
        return next((folder for folder in (path, path / "frames") if frames.is_log(folder)), None)
    return path if frames.claims(Source(path).head()) else None


def rows(path: Path, run: str | None, damaged: Report) -> Iterator[Mapping[str, object]]:
    """One row a sample, with the columns of :mod:`~rlhfd_daemon.rewards.sample`, of the run named ``run``.

    :raises TraceError: there are no samples of it, or of several runs and ``run`` is ``None``.
    """
    seen: dict[str, None] = {}
    for frame in _sampled(path, damaged):
        if len(seen) < MAX_RUNS:
            seen[frame.run] = None
        if run is None and len(seen) > 1:
            raise TraceError(f"{path}: samples of several runs ({', '.join(seen)}); name one: --run NAME")
        if run in (None, frame.run):
            yield from _rows(frame.step, frame.fields)
    if not seen:
        raise TraceError(f"{path}: no numbers of single answers; start the run with rlhfd run --samples")
    if run is not None and run not in seen:
        raise TraceError(f"{path}: no samples of the run {run}; there are those of {', '.join(seen)}")


def _sampled(path: Path, damaged: Report) -> Iterator[Frame]:
    for record in frames.records(path):
        if isinstance(record, Damage):
            damaged(Damaged(f"{record.path or path}: byte {record.offset}", record.reason))
            continue
        try:
            frame = decode(record.payload)
        except FrameError as error:
            damaged(Damaged(f"{path}: record {record.id}", str(error)))
            continue
        if frame.event == EVENT:
            yield frame


def _rows(step: int | None, fields: Mapping[str, Any]) -> Iterator[Mapping[str, object]]:
    columns = {name: column for name, column in fields.items() if isinstance(column, list)}
    length = min((len(column) for column in columns.values()), default=0)
    for values in islice(zip(*(column[:length] for column in columns.values()), strict=True), MAX_SAMPLES):
        row = dict(zip(columns, values, strict=True))
        # Prompts are numbered anew in each step.
        prompt = {"prompt_id": f"{step}.{row['prompt_id']}"} if row.get("prompt_id") is not None else {}
        yield {"step": step, **row, **prompt}
