"""Which log is meant: the format of a file by its content, and the one log of a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.outlets.step_files import CURRENT, PREVIOUS
from rlhfd_daemon.traces import frames
from rlhfd_daemon.traces.csv import Csv
from rlhfd_daemon.traces.jsonl import Jsonl
from rlhfd_daemon.traces.row import Report, Row
from rlhfd_daemon.traces.source import Source
from rlhfd_daemon.traces.tensorboard import TensorBoard
from rlhfd_daemon.traces.trainer_state import TrainerState
from rlhfd_daemon.traces.verl_console import VerlConsole
from rlhfd_daemon.traces.wandb import Wandb

__all__ = ["FORMATS", "FrameTrace", "RowTrace", "TraceFormat", "find"]


class TraceFormat(Protocol):
    """A format of logs that holds rows. Damage is told to the source, never raised."""

    @property
    def name(self) -> str:
        """For the reader of a report."""
        ...

    def claims(self, head: bytes) -> bool:
        """Whether a file whose unpacked content begins with ``head`` (up to 256 KiB) is one."""
        ...

    def rows(self, source: Source) -> Iterator[Row]:
        """The rows in file order. :class:`TraceError` only where nothing can be read at all."""
        ...


# The first that claims a file has it: from magic bytes to what is looser.
FORMATS: tuple[TraceFormat, ...] = (Wandb(), TensorBoard(), TrainerState(), Jsonl(), VerlConsole(), Csv())
KNOWN = "a frame log, JSON lines, TensorBoard events, CSV, trainer_state.json, a wandb offline run, a verl console log"
MAX_DEPTH = 5
MAX_FILES = 20_000
MAX_SHOWN = 8
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,18})")
_LOG_NAME = re.compile(r"\.(jsonl|ndjson|csv|tsv)(\.gz|\.xz)?$")


@dataclass(frozen=True)
class RowTrace:
    """A log of rows: one file, or several that follow each other."""

    format: TraceFormat
    path: Path
    files: tuple[Path, ...]

    def rows(self, report: Report) -> Iterator[Row]:
        """All rows, file by file."""
        for file in self.files:
            yield from self.format.rows(Source(file, report))


@dataclass(frozen=True)
class FrameTrace:
    """A frame log or one segment of it."""

    path: Path


def find(path: Path) -> RowTrace | FrameTrace:
    """The log at ``path``, a file or a folder.

    :raises TraceError: there is none, it is of no known format, or a folder holds several.
    """
    if not path.is_dir():
        return _of_file(path)
    if frames.is_log(path / "frames"):
        return FrameTrace(path / "frames")  # the daemon's state directory, which holds the same in other forms, too
    found = list(_in_folder(path))
    if len(found) == 1:
        return found[0]
    if not found:
        raise TraceError(f"{path}: no log in this folder; expected {KNOWN}")
    shown = "".join(f"\n  {one.path}" for one in found[:MAX_SHOWN])
    more = f"\n  and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    raise TraceError(f"{path}: {len(found)} logs in this folder; name one of them:{shown}{more}")


def _of_file(path: Path) -> RowTrace | FrameTrace:
    head = Source(path).head()
    if frames.claims(head):
        return FrameTrace(path)
    for one in FORMATS:
        if one.claims(head):
            return RowTrace(one, path, (path,))
    if b"\0" in head:
        raise TraceError(f"{path}: no log that rlhfd knows; expected {KNOWN}")
    # A console log may say much before its first step; whatever else is a text has no step in it.
    return RowTrace(VerlConsole(), path, (path,))


def _in_folder(folder: Path) -> Iterator[RowTrace | FrameTrace]:
    """Every log below ``folder``; of a trainer's checkpoints the newest, whose state holds the whole history."""
    try:
        files = _files(folder)
    except OSError as error:
        raise TraceError(f"{folder}: cannot be read: {error.strerror}") from error
    parents = dict.fromkeys(file.parent for file in files)
    yield from (FrameTrace(parent) for parent in parents if frames.is_log(parent))
    yield from _event_folders(files)
    yield from _each(files, Wandb(), lambda file: file.name.endswith(".wandb"))
    states = [file for file in files if file.name == "trainer_state.json"]
    newest = {file.parent.parent if _CHECKPOINT.fullmatch(file.parent.name) else file.parent: file
              for file in sorted(states, key=_checkpoint)}  # fmt: skip
    yield from (RowTrace(TrainerState(), file, (file,)) for file in newest.values())
    rotated = {
        file.with_name(CURRENT): file for file in files if file.name == PREVIOUS and file.with_name(CURRENT) in files
    }
    for file in files:
        if _LOG_NAME.search(file.name) and file not in rotated.values() and file.stat().st_size:
            found = _of_file(file)
            before = rotated.get(file)
            yield replace(found, files=(before, file)) if before and isinstance(found, RowTrace) else found


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        depth = len(Path(parent).relative_to(folder).parts)
        folders[:] = sorted(one for one in folders if not one.startswith(".")) if depth < MAX_DEPTH else []
        found += [Path(parent, name) for name in sorted(names)]
        if len(found) > MAX_FILES:
            raise TraceError(f"{folder}: more than {MAX_FILES} files; name the log itself")
    return [file for file in found if file.is_file()]


def _event_folders(files: Sequence[Path]) -> Iterator[RowTrace]:
    """Folders of event files with scalars; the files of one by the time in their names, so a resumed run is whole."""
    events: dict[Path, list[Path]] = {}
    for file in files:
        if "tfevents" in file.name:
            events.setdefault(file.parent, []).append(file)
    for parent, members in events.items():
        trace = RowTrace(TensorBoard(), parent, tuple(sorted(members, key=_event_time)))
        # Hyperparameters get a folder of their own, without a single scalar.
        if len(events) == 1 or next(trace.rows(lambda _damaged: None), None) is not None:
            yield trace


def _event_time(file: Path) -> tuple[int, str]:
    found = re.search(r"tfevents\.(\d{1,18})", file.name)
    return (int(found[1]) if found else 0, file.name)


def _checkpoint(file: Path) -> int:
    found = _CHECKPOINT.fullmatch(file.parent.name)
    return int(found[1]) if found else -1


def _each(files: Sequence[Path], form: TraceFormat, chosen: Callable[[Path], bool]) -> Iterator[RowTrace]:
    yield from (RowTrace(form, file, (file,)) for file in files if chosen(file))
