"""Tells the death of one actor from the end of a whole run, the moment the kernel reports an exit."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass

from rlhfd_daemon.observation import Observation, Subject
from rlhfd_daemon.runs import DAEMON_ROLE, Run, Runs, Stream
from rlhfd_daemon.stalls import COORDINATORS

__all__ = ["ACTORS", "Deaths", "PidWatch"]

# What is killed together is not seen to go within the same instant.
TOGETHER_SECONDS = 0.2
MAX_WATCHED = 4096
# Of anything else (a data loader's worker, a program of the user's) an exit without a word is nothing special.
ACTORS = frozenset({
    "PPOTrainer", "PPOTrainerAsync", "TrainingActor", "GenerateSamplesActor", "RolloutRayActor", "LLMRayActor",
    "PolicyModelActor", "CriticModelActor", "ReferenceModelActor", "RewardModelActor",
    "ActorModelRayActor", "CriticModelRayActor", "ReferenceModelRayActor", "RewardModelRayActor",
})  # fmt: skip


class PidWatch:
    """Which of the watched processes have exited, by pidfd: no polling of ``/proc``, no confusion by a reused pid."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._poll = select.poll()

    def watch(self, pid: int) -> bool:
        """Begin to watch ``pid``; False if it is gone already or cannot be watched."""
        if pid in self._fds:
            return True
        if len(self._fds) >= MAX_WATCHED:
            return False
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return False
        self._fds[pid] = fd
        self._poll.register(fd, select.POLLIN)
        return True

    def exited(self) -> set[int]:
        """The pids that have exited since they are watched."""
        ready = {fd for fd, _ in self._poll.poll(0)}
        if not ready:
            return set()
        return {pid for pid, fd in self._fds.items() if fd in ready}

    def forget(self, pid: int) -> None:
        """Stop watching; does nothing if ``pid`` is not watched."""
        fd = self._fds.pop(pid, None)
        if fd is not None:
            self._poll.unregister(fd)
            os.close(fd)

    def close(self) -> None:
        """Stop watching everything. Safe to call twice."""
        for pid in list(self._fds):
            self.forget(pid)


@dataclass(frozen=True)
class _Exit:
    stream: Stream
    seen: float  # monotonic seconds


class Deaths:
    """Called several times a second. An actor is dead when it exited without saying ``process_stop`` and left those
    behind that would have gone first at the end of a run.

    Measured with Ray 2.55: at the end of an asynchronous run nobody says goodbye, the coordinators go first and the
    others half a second later; after the death of another actor the coordinators live for 0.8 s more.
    """

    def __init__(self, runs: Runs, pids: PidWatch | None = None, host: Callable[[], str] = socket.gethostname) -> None:
        self._runs = runs
        self._pids = pids or PidWatch()
        self._host = host
        self._exits: dict[str, _Exit] = {}
        self._dead: dict[tuple[str, str, str, int | None], str] = {}

    def check(self, now: float, mono: float) -> list[Observation]:
        """What died and what came back since the last call; ``now`` in Unix, ``mono`` in monotonic seconds."""
        present = {one.stream: one for run in self._runs.runs.values() for one in _running(run)}
        for stream in present.values():
            self._pids.watch(stream.peer.pid)
        exited = self._pids.exited()
        for stream in present.values() if exited else ():
            if stream.peer.pid in exited:
                self._exits.setdefault(stream.stream, _Exit(stream, mono))
        if not (exited or self._exits or self._dead):
            return []
        found = [*self._restarts(present, exited), *self._judge(now, mono, exited)]
        for pid in exited - {one.stream.peer.pid for one in self._exits.values()}:
            self._pids.forget(pid)
        return found

    def close(self) -> None:
        """Let go of every process. Safe to call twice."""
        self._pids.close()

    def _judge(self, now: float, mono: float, exited: set[int]) -> list[Observation]:
        found: list[Observation] = []
        for key, one in list(self._exits.items()):
            stream = one.stream
            if stream.ended == "process_stop":
                del self._exits[key]
            elif mono - one.seen >= TOGETHER_SECONDS:
                del self._exits[key]
                found.append(_event(stream, "stream_end", reason="exited_without_bye"))
                if stream.role in ACTORS and self._left_behind(stream, exited):
                    self._dead[(stream.run, stream.boot, stream.role, stream.rank)] = stream.stream
                    found.append(_event(stream, "actor_death", **self._obituary(stream, now)))
        return found

    def _left_behind(self, dead: Stream, exited: set[int]) -> bool:
        run = self._runs.runs.get((dead.run, dead.boot))
        if run is None:
            return False
        alive = [one for one in _running(run) if one.peer.pid not in exited]
        if dead.role in COORDINATORS:  # it ends first, but not in the middle of something
            return bool(dead.phases and alive)
        led = any(one.role in COORDINATORS for one in run.streams.values())
        return any(one.role in COORDINATORS or not led for one in alive)

    def _restarts(self, present: dict[str, Stream], exited: set[int]) -> list[Observation]:
        found: list[Observation] = []
        for stream in present.values():
            key = (stream.run, stream.boot, stream.role, stream.rank)
            if self._dead.get(key, stream.stream) != stream.stream and stream.peer.pid not in exited:
                del self._dead[key]
                found.append(_event(stream, "actor_restart"))
        return found

    def _obituary(self, stream: Stream, now: float) -> dict[str, object]:
        return {
            "host": stream.start.get("hostname") or self._host(),
            "cause": "it exited without a word (killed, out of memory, or crashed)",
            "last_phase": stream.phase or "no phase",
            "last_step": stream.step,
            "last_seen": stream.last_seen,
            "silent_seconds": round(now - stream.last_seen, 1),
        }


def _running(run: Run) -> list[Stream]:
    streams = run.streams.values()
    return [one for one in streams if one.ended is None and one.role != DAEMON_ROLE and one.peer.pid > 0]


def _event(stream: Stream, name: str, **fields: object) -> Observation:
    who = {"stream": stream.stream, "role": stream.role, "rank": stream.rank, "pid": stream.peer.pid}
    return Observation(subject=Subject(stream.run, stream.boot), step=stream.step, event=name, fields={**who, **fields})
