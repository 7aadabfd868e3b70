"""What is lost on the way: frames that emitters left out or that never came, and records that find no room."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

from rlhfd_daemon.framelog import FrameLogStats
from rlhfd_daemon.observation import Observation, Subject, node
from rlhfd_daemon.runs import DAEMON_ROLE, Runs, Stream

__all__ = ["Losses"]

AGAIN_SECONDS = 60.0  # between two observations of one stream that goes on losing frames
LOSING = (":ring_full", ":too_large")  # a frame that was muted is not lost, a single wrong value is no frame


class Losses:
    """Asked now and then. What a stream had lost when it was first looked at, after a start, was told before."""

    def __init__(self, runs: Runs, stats: Callable[[], FrameLogStats]) -> None:
        self._runs = runs
        self._stats = stats
        self._told: dict[str, int] = {}
        self._told_at: dict[str, float] = {}
        self._unrecorded: int | None = None  # before recording stopped
        self._has_looked = False

    def check(self, now: float) -> list[Observation]:
        """What is to be recorded since the last call; ``now`` is unix seconds."""
        found = [*self._of_records(), *self._of_frames(now)]
        self._has_looked = True
        return found

    def _of_records(self) -> Iterator[Observation]:
        stats = self._stats()
        if stats.degraded is not None and self._unrecorded is None:
            self._unrecorded = stats.unrecorded_total
            yield Observation(subject=node(), event="recording_stopped", fields={"error": stats.degraded, **_host()})
        elif stats.degraded is None and self._unrecorded is not None:
            lost, self._unrecorded = stats.unrecorded_total - self._unrecorded, None
            yield Observation(subject=node(), event="recording_resumed", fields={"records": lost, **_host()})

    def _of_frames(self, now: float) -> Iterator[Observation]:
        streams = self._runs.streams
        for gone in self._told.keys() - streams.keys():
            del self._told[gone]
            self._told_at.pop(gone, None)
        for stream in streams.values():
            if stream.role == DAEMON_ROLE:
                continue
            lost, told = _total(stream), self._told.get(stream.stream)
            if told is None and not self._has_looked:
                self._told[stream.stream] = lost
            elif lost > (told or 0) and now - self._told_at.get(stream.stream, -AGAIN_SECONDS) >= AGAIN_SECONDS:
                self._told[stream.stream], self._told_at[stream.stream] = lost, now
                yield _lost(stream, lost - (told or 0))


def _drops(stream: Stream) -> dict[str, int]:
    return {reason: count for reason, count in stream.drops.items() if reason.endswith(LOSING)}


def _total(stream: Stream) -> int:
    """A frame that found no room leaves a gap in the numbers; one that was too large never had a number."""
    drops = _drops(stream)
    unnumbered = sum(count for reason, count in drops.items() if reason.endswith(":too_large"))
    return max(stream.gaps, sum(drops.values()) - unnumbered) + unnumbered


def _lost(stream: Stream, frames: int) -> Observation:
    reasons = [f"{count} {reason}" for reason, count in sorted(_drops(stream).items())]
    fields: dict[str, object] = {
        "role": stream.role,
        "rank": stream.rank,
        "pid": stream.pid,
        "frames": frames,
        "reasons": ", ".join(reasons) or f"{stream.gaps} never came",
        **_host(),
    }
    return Observation(subject=Subject(stream.run, stream.boot), step=stream.step, event="frames_lost", fields=fields)


def _host() -> dict[str, object]:
    return {"host": socket.gethostname()}
