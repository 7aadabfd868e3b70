"""Decides which open phases are stalled and which processes have fallen silent, and when they come back."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rlhfd_daemon.config import PhasesConfig
from rlhfd_daemon.observation import Observation, Subject
from rlhfd_daemon.process_state import ProcessState
from rlhfd_daemon.runs import DAEMON_ROLE, OpenPhase, Run, Runs, Stream

__all__ = ["StallWatch", "limit_seconds"]

MIN_HISTORY = 3
MAX_PAUSE_SECONDS = 5.0  # of the daemon itself: after a longer one nobody has been silent, we have been deaf
# They wait for the others: while another process of the run is overdue too, that one is the cause.
COORDINATORS = frozenset({"PPOTrainer", "PPOTrainerAsync", "TrainingActor", "GenerateSamplesActor"})
# More for them: a wait begins before what it waits for, such as a reward call at the end of a generation.
COORDINATOR_GRACE_SECONDS = 4.0
SUSPECT_STATES = {"T": "stopped", "t": "stopped by a debugger", "D": "waiting in the kernel", "Z": "ended"}


@dataclass(frozen=True)
class _Overdue:
    run: Run
    stream: Stream
    phase: OpenPhase
    seconds: float
    usual: float | None


def limit_seconds(durations: Sequence[float], config: PhasesConfig) -> float:
    """How long a phase may take whose latest predecessors took ``durations``."""
    if len(durations) < MIN_HISTORY:
        return config.first_seconds
    return max(config.floor_seconds, config.factor * max(durations))


class StallWatch:
    """Called about once a second. ``states`` looks at a process and its descendants (see ``process_state``)."""

    def __init__(self, config: PhasesConfig, runs: Runs, states: Callable[[int], Sequence[ProcessState]]) -> None:
        self._config = config
        self._runs = runs
        self._states = states
        self._checked: float | None = None
        self._deaf_until = float("-inf")

    def check(self, now: float, mono: float) -> list[Observation]:
        """What began and what ended since the last call; ``now`` in Unix, ``mono`` in monotonic seconds."""
        if not self._config.enabled:
            return []
        if self._checked is None or mono - self._checked > MAX_PAUSE_SECONDS:
            self._deaf_until = mono + self._config.heartbeat_seconds
        self._checked = mono
        if mono < self._deaf_until:
            return []
        live = [run for run in self._runs.runs.values() if run.live]
        silent = [event for run in live for event in self._silences(run, now)]
        return [*silent, *(event for run in live for event in self._stalls(run, mono))]

    def _silences(self, run: Run, now: float) -> Iterator[Observation]:
        for stream in _present(run):
            seconds = now - stream.last_seen
            if not stream.silent and seconds > self._config.heartbeat_seconds and stream.peer.pid > 0:
                stream.silent = True
                yield _event(run, stream, "heartbeat_lost", seconds=round(seconds, 1), **self._suspects(stream))
            elif stream.silent and seconds < self._config.heartbeat_seconds:
                stream.silent = False
                yield _event(run, stream, "heartbeat_back")

    def _stalls(self, run: Run, mono: float) -> Iterator[Observation]:
        yield from self._resumed(run)
        overdue = [one for stream in _present(run) for one in self._overdue(run, stream, mono)]
        causes = [one for one in overdue if one.stream.role not in COORDINATORS]
        for one in causes or overdue:
            if one.phase.id not in one.stream.stalled:
                one.stream.stalled.add(one.phase.id)
                yield _event(run, one.stream, "phase_stalled", **_described(one), **self._suspects(one.stream))

    def _resumed(self, run: Run) -> Iterator[Observation]:
        for stream in run.streams.values():
            for number in [number for number in stream.stalled if number not in stream.phases or stream.ended]:
                stream.stalled.discard(number)
                yield _event(run, stream, "phase_resumed", id=number)

    def _overdue(self, run: Run, stream: Stream, mono: float) -> Iterator[_Overdue]:
        grace = COORDINATOR_GRACE_SECONDS if stream.role in COORDINATORS else 0.0
        for phase in stream.phases.values():
            durations = run.durations.get((stream.role, phase.phase), ())
            seconds = mono - phase.since_mono_ns / 1e9
            if seconds > limit_seconds(tuple(durations), self._config) + grace:
                yield _Overdue(run, stream, phase, seconds, max(durations, default=None))

    def _suspects(self, stream: Stream) -> dict[str, object]:
        """Processes of this one's tree that cannot run at the moment."""
        found = [one for one in self._states(stream.peer.pid) if one.state in SUSPECT_STATES]
        told = [f"{one.name} (pid {one.pid}) is {SUSPECT_STATES[one.state]}" for one in found]
        return {
            "suspects": [{"pid": one.pid, "name": one.name, "state": one.state} for one in found],
            "suspect_pids": [one.pid for one in found] or None,
            "suspects_text": f"; {', '.join(told)}" if told else "",
        }


def _present(run: Run) -> Iterator[Stream]:
    return (stream for stream in run.streams.values() if stream.ended is None and stream.role != DAEMON_ROLE)


def _described(one: _Overdue) -> dict[str, object]:
    phase, usual = one.phase, one.usual
    return {
        "phase": phase.phase,
        "id": phase.id,
        "step": phase.step,
        "seconds": round(one.seconds, 1),
        "usual_seconds": None if usual is None else round(usual, 3),
    }


def _event(run: Run, stream: Stream, name: str, **fields: object) -> Observation:
    who = {
        "stream": stream.stream,
        "role": stream.role,
        "rank": stream.rank,
        "pid": stream.peer.pid if stream.peer.pid > 0 else stream.pid,
        "host": stream.start.get("hostname") or socket.gethostname(),
    }
    step = fields.pop("step", stream.step)
    step = step if isinstance(step, int) else None
    return Observation(subject=Subject(run.run, run.boot), step=step, event=name, fields={**who, **fields})
