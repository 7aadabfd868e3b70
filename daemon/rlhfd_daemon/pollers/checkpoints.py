"""Checkpoints as they appear: a child process judges the complete ones, one after the other; broken ones are told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from rlhfd_daemon.checkpoints.chains import before, chains
from rlhfd_daemon.checkpoints.completeness import Known, Limits, State
from rlhfd_daemon.checkpoints.history import History
from rlhfd_daemon.checkpoints.judgement import Answer, Judgement, Question
from rlhfd_daemon.checkpoints.layout import Description
from rlhfd_daemon.checkpoints.observed import observations
from rlhfd_daemon.checkpoints.roots import Root, Saves, known_of, roots_of
from rlhfd_daemon.checkpoints.tracking import Change, News
from rlhfd_daemon.checkpoints.watching import CheckpointWatch
from rlhfd_daemon.config_checkpoints import CheckpointsConfig
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.observation import Observation, Subject, node
from rlhfd_daemon.runs import Run, Runs
from rlhfd_daemon.sample import Sample

__all__ = ["CheckpointPoller"]

COMMAND = (sys.executable, "-m", "rlhfd_daemon.checkpoints.judge_child")
MAX_WAITING = 64
MAX_ANSWER_BYTES = 16 << 20
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Job:
    root: Root
    found: Description
    before: Description | None


class CheckpointPoller:
    """Also a sink of the pipeline: frames say who is saving. ``state_dir`` is the daemon's; the history of each run is
    kept beside its steps."""

    name = "checkpoints"
    interval_seconds = 1.0

    def __init__(self, config: CheckpointsConfig, runs: Runs, state_dir: Path) -> None:
        self.history = History(state_dir / "runs")
        self._config = config
        self._runs = runs
        self._saves = Saves()
        limits = Limits(config.settle_seconds, config.broken_seconds)
        self._watch = CheckpointWatch(interval_seconds=config.interval_seconds, limits=limits)
        self._waiting: deque[_Job] = deque(maxlen=MAX_WAITING)
        self._judging: asyncio.Task[tuple[_Job, Answer]] | None = None

    def take(self, frame: Frame, samples: Sequence[Sample]) -> None:
        """Take note of who saves."""
        if frame.event is not None:
            self._saves.observe(frame, frame.time_ns / 1e9)

    async def poll(self, now: float) -> Iterable[Observation]:
        roots = roots_of(self._runs.runs.values(), self._config.paths)
        changes = await self._watch.look(roots, now, self._known)
        found = [seen for change in changes for seen in self._noted(change)]
        return [*found, *self._judge(now)]

    async def stop(self) -> None:
        self._watch.stop()
        if self._judging is not None:
            self._judging.cancel()
            await asyncio.gather(self._judging, return_exceptions=True)

    def _known(self, root: Root, found: Description) -> Known:
        return known_of(self._run(root), found, self._saves)

    def _run(self, root: Root) -> Run | None:
        return self._runs.runs.get((root.run, root.boot))

    def _noted(self, change: Change) -> Iterator[Observation]:
        root = next(one for one in roots_of(self._runs.runs.values(), self._config.paths) if one.path == change.root)
        found = change.description
        about = _about(root, found)
        if change.news is News.COMPLETE:
            self._waiting.append(_Job(root, found, self._before(root, found)))
            yield Observation(subject=_subject(root), step=found.step, event="checkpoint_complete", fields=about)
        elif change.news is News.BROKEN:
            fields = {**about, "reason": change.verdict.reason, "age_seconds": round(change.age_seconds, 1)}
            yield Observation(subject=_subject(root), step=found.step, event="checkpoint_incomplete", fields=fields)

    def _before(self, root: Root, found: Description) -> Description | None:
        """The complete one of its chain that it is compared with."""
        layout, tracked = self._watch.layouts.get(root.path), self._watch.tracked.get(root.path)
        if layout is None or tracked is None or not self._config.compare:
            return None
        for chain in chains(layout):
            if any(one.path == found.path for one in chain):
                states = tracked.states
                return next((one for one in before(found, chain) if states.get(one.path) is State.COMPLETE), None)
        return None

    def _judge(self, now: float) -> Iterator[Observation]:
        if self._judging is not None and self._judging.done():
            task, self._judging = self._judging, None
            job, answer = task.result()
            yield from self._told(job, answer, now)
        if self._judging is None and self._waiting:
            self._judging = asyncio.create_task(self._ask(self._waiting.popleft()))

    def _told(self, job: _Job, answer: Answer, now: float) -> Iterator[Observation]:
        if answer.vanished:
            return
        if answer.error:
            log.warning("checkpoint not judged", path=_path(job.root, job.found), error=answer.error)
            return
        run = self._run(job.root)
        judgement = Judgement(
            time=now, path=_path(job.root, job.found), format=job.found.kind, role=job.found.role,
            step=job.found.step, run_step=None if run is None else run.step, answer=answer,
        )  # fmt: skip
        earlier = self.history.of(job.root.run or node().run, job.root.boot or node().boot)
        self.history.add(job.root.run or node().run, job.root.boot or node().boot, judgement)
        yield from observations(_subject(job.root), _about(job.root, job.found), judgement, earlier)

    async def _ask(self, job: _Job) -> tuple[_Job, Answer]:
        before = None if job.before is None else job.before.path
        rate = self._config.read_bytes_per_second
        path, stamp = job.found.path, job.found.stamp
        question = Question(root=job.root.path, path=path, before=before, rate=rate, stamp=stamp)
        process = await asyncio.create_subprocess_exec(
            *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, cwd="/", start_new_session=True,
        )  # fmt: skip
        try:
            asked = process.communicate(msgspec.json.encode(question))
            said, _ = await asyncio.wait_for(asked, self._config.deadline_seconds)
            return job, msgspec.json.decode(said, type=Answer)
        except asyncio.TimeoutError:
            return job, Answer(error=f"not done after {self._config.deadline_seconds:g} s")
        except msgspec.MsgspecError:
            return job, Answer(error=f"the process that reads it ended with {process.returncode}")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


def _subject(root: Root) -> Subject:
    return Subject(root.run, root.boot) if root.run else node()


def _path(root: Root, found: Description) -> str:
    return os.path.join(root.path, found.path) if found.path else root.path


def _about(root: Root, found: Description) -> dict[str, object]:
    return {"path": _path(root, found), "role": found.role or "model", "format": found.kind, "best": found.best}
