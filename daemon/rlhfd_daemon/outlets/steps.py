"""One JSON line for each step of each run, assembled from the frames of all its processes, in steps.jsonl files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import structlog

from rlhfd_daemon.config import StepsConfig
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.outlets.latest import NODE
from rlhfd_daemon.outlets.step_files import CURRENT, StepFile, folder_of, forget_oldest
from rlhfd_daemon.runs import Runs
from rlhfd_daemon.sample import Sample

__all__ = ["Steps", "line"]

FLUSH_SECONDS = 1.0
SETTLE_SECONDS = 1.0  # other processes' frames of a step may come a little after the trainer's logs
LOGGED_SECONDS = 5.0
UNLOGGED_SECONDS = 60.0
RETRY_SECONDS = 5.0
STOP_SECONDS = 3.0
MAX_LAUNCHES = 1024
MAX_OPEN_STEPS = 32
MAX_VALUES = 4096  # of one line
MAX_WAITING_BYTES = 8 << 20  # lines not written yet, of all runs
LOGS = "train/"
log = structlog.get_logger()


@dataclass
class _Row:
    """One line to be. Times are the daemon's of receipt; ``logged`` is when the trainer's logs of the step came, from
    ``logger``."""

    time: float
    newest: float
    is_late: bool
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    size: int = 0
    logged: float | None = None
    logger: str = ""


@dataclass
class _Launch:
    """``written`` is the highest step that has its line, ``newest`` the highest heard of, ``logged`` with logs;
    ``replayed`` the last one in the file when it was opened. A trainer's steps may take an hour between their first
    value and their logs; a run that never logs does not wait for them (``waits_for_logs``)."""

    file: StepFile
    replayed: float
    written: float
    newest: float = -math.inf
    logged: float = -math.inf
    rows: dict[int, _Row] = field(default_factory=dict)
    ready: list[bytes] = field(default_factory=list)
    is_new: bool = True
    waits_for_logs: bool = True


class _Batch(NamedTuple):
    """``lines`` on their way into the file, ``step`` the highest in it once they are."""

    launch: _Launch
    lines: list[bytes]
    step: int


class Steps:
    """A sink. A line is due when the step's logs (``train/...``) came and a later step began, or 5 s have passed.
    A step without logs gets its line once a later one has logs, or the run ends.

    Values are those of rank 0, or of processes without a rank, the last of each name. If several roles have a metric
    of one name, it is the trainer's, then the policy's; the others' are called ``<name>@<role>``. What comes after
    its step's line is written on a line of its own with ``"late": true``. Written once a second in a thread.
    """

    def __init__(self, config: StepsConfig, root: Path, runs: Runs) -> None:
        self.written_total = 0
        self.dropped_total = 0
        self.error: str | None = None
        self.root = root
        self._config = config
        self._runs = runs
        self._started = time.time()
        self._launches: dict[tuple[str, str], _Launch] = {}
        self._waiting_bytes = 0
        self._retry_at = 0.0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def take(self, frame: Frame, samples: Sequence[Sample]) -> None:
        """Add what ``samples``, all of ``frame``'s run and step, say."""
        step = frame.step
        if step is None:
            return
        launch = self._launches.get((frame.run, frame.boot))
        if launch is None:
            launch = self._open(frame.run, frame.boot) if samples and not frame.run.startswith(NODE) else None
        if launch is None:
            return
        launch.newest = max(launch.newest, step)
        if frame.rank:  # what follows from several ranks together has none
            samples = [] if frame.event is None else [sample for sample in samples if not sample.rank]
        if not samples:
            return
        now = samples[0].time
        if now < self._started and step <= launch.replayed:
            return  # the restart reads again what has its line
        row = launch.rows.get(step)
        if row is None:
            row = launch.rows[step] = _Row(now, now, is_late=step <= launch.written)
        _add(launch, row, step, samples)
        if len(launch.rows) > MAX_OPEN_STEPS:
            self._promote(launch, now)
            while len(launch.rows) > MAX_OPEN_STEPS:
                self._put(launch, min(launch.rows))

    def path(self, run: str, boot: str) -> Path | None:
        """The file of one launch, if there is one."""
        path = folder_of(self.root, run, boot) / CURRENT
        return path if path.exists() else None

    def status(self) -> dict[str, object]:
        """Counts since the start; ``error`` is why nothing can be written at present."""
        return {
            "directory": str(self.root),
            "written_total": self.written_total,
            "dropped_total": self.dropped_total,
            "error": self.error,
        }

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what is complete; bounded, safe to call twice. The rest comes again from the frame log."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=STOP_SECONDS)
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), FLUSH_SECONDS)
            try:
                await self.flush(time.time(), is_last=self._stopping.is_set())
            except Exception:  # a supervised loop: a bad turn must not end the files of all runs
                log.exception("steps: flush failed")

    async def flush(self, now: float, *, is_last: bool = False) -> None:
        """Write what is due at ``now`` (Unix seconds)."""
        for key, launch in list(self._launches.items()):
            run = self._runs.runs.get(key)
            ended = run is None or not run.live
            launch.waits_for_logs = run is None or run.trainer is not None
            self._promote(launch, now, logged_only=is_last, everything=ended and not is_last)
            if ended and not launch.rows and not launch.ready:
                del self._launches[key]
        if self.error is not None and now < self._retry_at and not is_last:
            return
        batches = [_Batch(one, one.ready, int(one.written)) for one in self._launches.values() if one.ready]
        for batch in batches:
            batch.launch.ready = []
        if batches:
            errors = await asyncio.get_running_loop().run_in_executor(None, self._write, batches)
            self._settle(batches, errors, now)

    def _open(self, run: str, boot: str) -> _Launch | None:
        if len(self._launches) >= MAX_LAUNCHES:
            self.dropped_total += 1
            return None
        file = StepFile(folder_of(self.root, run, boot), self._config.max_run_bytes)
        last = -math.inf if file.last_step is None else file.last_step
        launch = self._launches[(run, boot)] = _Launch(file, replayed=last, written=last)
        return launch

    def _promote(self, launch: _Launch, now: float, *, logged_only: bool = False, everything: bool = False) -> None:
        """Make lines of the rows that are due; of all with logs, or of all."""
        for step in sorted(launch.rows):
            row = launch.rows[step]
            wanted = row.logged is not None or row.is_late if logged_only else everything
            if wanted or _is_due(row, step, launch, now):
                self._put(launch, step)

    def _put(self, launch: _Launch, step: int) -> None:
        row = launch.rows.pop(step)
        encoded = line(step, row.time, _merged(row), is_late=row.is_late)
        launch.written = max(launch.written, step)
        if self._waiting_bytes + len(encoded) > MAX_WAITING_BYTES:
            self.dropped_total += 1
            return
        self._waiting_bytes += len(encoded)
        launch.ready.append(encoded)

    def _write(self, batches: Sequence[_Batch]) -> list[OSError | None]:
        """In a thread. What went wrong with each batch."""
        errors: list[OSError | None] = []
        for launch, lines, step in batches:
            try:
                launch.file.append(lines, step)
                errors.append(None)
            except OSError as error:
                errors.append(error)
        if any(batch.launch.is_new for batch in batches):
            with contextlib.suppress(OSError):
                forget_oldest(self.root, self._config.max_runs)
        return errors

    def _settle(self, batches: Sequence[_Batch], errors: Sequence[OSError | None], now: float) -> None:
        for (launch, lines, _), error in zip(batches, errors, strict=True):
            launch.is_new = False
            if error is None:
                self.written_total += len(lines)
            else:
                launch.ready = lines + launch.ready
        self._waiting_bytes = sum(len(one) for launch in self._launches.values() for one in launch.ready)
        failed = next((error for error in errors if error is not None), None)
        described = None if failed is None else failed.strerror or str(failed)
        if described != self.error:
            log.warning("steps are written again" if described is None else "steps cannot be written", error=described)
        self.error, self._retry_at = described, now + RETRY_SECONDS


def _add(launch: _Launch, row: _Row, step: int, samples: Sequence[Sample]) -> None:
    row.newest = samples[0].time
    for sample in samples:
        of_role = row.values.get(sample.role)
        if of_role is None:
            of_role = row.values[sample.role] = {}
        if sample.name not in of_role:
            if row.size >= MAX_VALUES:
                continue
            row.size += 1
        of_role[sample.name] = sample.value
    if row.logged is None and any(sample.name.startswith(LOGS) for sample in samples):
        row.logged, row.logger, row.time = row.newest, samples[0].role, row.newest
        launch.logged = max(launch.logged, step)


def _is_due(row: _Row, step: int, launch: _Launch, now: float) -> bool:
    if row.is_late:
        return now - row.time >= SETTLE_SECONDS
    if row.logged is not None:
        return now - row.logged >= (SETTLE_SECONDS if launch.newest > step else LOGGED_SECONDS)
    idle = now - row.newest
    if launch.logged > step:  # no logs at this step: they come every so many steps only
        return idle >= LOGGED_SECONDS
    return not launch.waits_for_logs and idle >= (LOGGED_SECONDS if launch.newest > step else UNLOGGED_SECONDS)


def _merged(row: _Row) -> dict[str, float]:
    merged: dict[str, float] = {}
    for role in sorted(row.values, key=lambda role: (role != row.logger, not role.startswith("Policy"), role)):
        for name, value in row.values[role].items():
            taken = name in merged or name in ("step", "time", "late", "continues")
            merged[f"{name}@{role}" if taken else name] = value
    return merged


def line(step: int, at: float, values: Mapping[str, float], *, is_late: bool = False) -> bytes:
    """One line of a file. A value that is not finite is written as Python's json does, TRL's and transformers' logs
    have it and pandas reads it: NaN, Infinity, -Infinity. null would make it look absent."""
    head: dict[str, object] = {"step": step, "time": round(at, 3)}
    if is_late:
        head["late"] = True
    return json.dumps({**head, **values}, separators=(",", ":")).encode() + b"\n"
