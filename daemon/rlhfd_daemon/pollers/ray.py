"""What Ray does on this node, with nothing installed: busy share and method of each actor, and the object store."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import structlog

from rlhfd_daemon import procfs
from rlhfd_daemon.config_host import RayConfig
from rlhfd_daemon.observation import Observation, Subject
from rlhfd_daemon.probe import Prober, Stuck
from rlhfd_daemon.process_names import ProcessNames
from rlhfd_daemon.ray_session import Session, Unobserved, assign, store_metrics, take
from rlhfd_daemon.ray_store import parse_debug_state, parse_raylet
from rlhfd_daemon.ray_titles import Actor, is_ray, parse_title
from rlhfd_daemon.ray_tree import RayTree
from rlhfd_daemon.runs import Runs
from rlhfd_daemon.title_reader import TitleReader

__all__ = ["RayPoller"]

LOOK_SECONDS = 5.0  # between two looks for new workers
STORE_SECONDS = 5.0  # Ray writes it every 10 s
FILE_BYTES = 1 << 16
MAX_DEPTH = 4  # of a worker below its raylet: a shell or a container runtime may be between
METRICS_PER_OBSERVATION = 490  # a frame has at most 512
log = structlog.get_logger()


class RayPoller:
    """Polled as often as titles are sampled; reports every ``interval_seconds`` of its configuration. ``names`` are to
    be shared with the pollers that name the same processes; ``mono`` is the monotonic clock; a file of the node that
    has not answered after ``patience_seconds`` is done without."""

    name = "ray"

    def __init__(
        self,
        config: RayConfig,
        runs: Runs,
        names: ProcessNames | None = None,
        *,
        proc: Path = procfs.PROC,
        mono: Callable[[], float] = time.monotonic,
        patience_seconds: float = 1.0,
    ) -> None:
        self.interval_seconds = config.sample_seconds
        self.unobserved: tuple[Unobserved, ...] = ()
        self._config = config
        self._runs, self._names = runs, names or ProcessNames()
        self._proc, self._mono = proc, mono
        self._prober = Prober(patience_seconds)
        self._titles = TitleReader(self._prober, proc)
        self._tree = RayTree(proc)
        self._sessions: dict[int, Session] = {}
        self._looked = self._store_read = float("-inf")
        self._reported = mono()

    async def poll(self, now: float) -> Iterable[Observation]:
        mono = self._mono()
        if mono - self._looked >= LOOK_SECONDS:
            self._looked = mono
            await self._look(mono)
        await self._sample(mono)
        if mono - self._reported < self._config.interval_seconds:
            return ()
        self._reported = mono
        if mono - self._store_read >= STORE_SECONDS:
            self._store_read = mono
            for session in self._sessions.values():
                await self._read_store(session)
        return list(self._report(mono))

    async def stop(self) -> None:
        self._prober.stop()

    def methods(self) -> dict[int, str]:
        """What runs now, by pid, of the actors in which a method runs."""
        return {
            pid: actor.method
            for session in self._sessions.values()
            for pid, actor in session.actors.items()
            if actor.method is not None
        }

    async def _look(self, mono: float) -> None:
        """Find the raylets and their workers."""
        raylets = self._tree.look()
        self._sessions = {pid: self._sessions.get(pid) or Session(pid) for pid in raylets}
        for session in self._sessions.values():
            if session.raylet is None:
                said = await self._read(f"{self._proc}/{session.pid}/cmdline")
                session.raylet = parse_raylet(said) if isinstance(said, str) else None
            level = self._tree.children(session.pid)
            for _ in range(MAX_DEPTH):
                titles = await self._titles.read(pid for pid in level if pid not in session.actors)
                for pid, title in titles.items():
                    found = parse_title(title)
                    if found is not None:
                        session.actors[pid] = Actor(found.actor, mono)
                # What descends from a worker is no worker, though a forked child has its title.
                below = [pid for pid, title in titles.items() if not is_ray(title)]
                level = [child for pid in below for child in self._tree.children(pid)]
                if not level:
                    break

    async def _sample(self, mono: float) -> None:
        titles = await self._titles.read(pid for session in self._sessions.values() for pid in session.actors)
        for session in self._sessions.values():
            for pid in session.actors.keys() & titles.keys():
                actor = session.actors[pid]
                found = parse_title(titles[pid], actor.name)
                if found is None:
                    del session.actors[pid]
                else:
                    actor.see(found.method, mono)

    async def _read_store(self, session: Session) -> None:
        session.store = None
        if session.raylet is None:
            return
        path = f"{session.raylet.log_dir}/debug_state.txt"
        # By the raylet's own root: it may run in another container, or in one that has the same path.
        said = await self._read(f"{self._proc}/{session.pid}/root{path}")
        if not isinstance(said, str):
            said = await self._read(path)
        if isinstance(said, str):
            session.store = parse_debug_state(said, session.raylet.node_id)
        elif said not in (None, errno.ENOENT) and not session.is_refused:  # Ray writes it after 10 s
            session.is_refused = True
            log.warning("the state of Ray's object store cannot be read", path=path, error=os.strerror(said))

    async def _read(self, path: str) -> str | int | None:
        """The text, or the errno; ``None`` while it hangs."""
        answer = await self._prober.ask(path, {"read": [path], "bytes": FILE_BYTES})
        said = None if isinstance(answer, Stuck) else answer.get(path)
        return said if isinstance(said, (str, int)) else None

    def _report(self, mono: float) -> Iterator[Observation]:
        observed, sessions = self._observed(), self._sessions.values()
        assign(sessions, observed, mono, self._config.unobserved_after_seconds)
        metrics = store_metrics(sessions)
        unobserved: list[Unobserved] = []
        for session in sessions:
            of_actors, others = take(session, observed, mono)
            unobserved += others
            for subject, values in of_actors.items():
                metrics.setdefault(subject, {}).update(values)
        self.unobserved = tuple(unobserved)
        for subject, values in metrics.items():
            rest = iter(values.items())
            while part := dict(itertools.islice(rest, METRICS_PER_OBSERVATION)):
                yield Observation(subject=subject, metrics=part)

    def _observed(self) -> dict[int, tuple[Subject, str]]:
        """By pid the run and the name of each process that has an emitter."""
        runs = [run for run in self._runs.runs.values() if run.live]
        self._names.keep(runs)
        return {
            stream.peer.pid: (Subject(run.run, run.boot), name)
            for run in runs
            for name, stream in self._names.of(run).values()
        }
