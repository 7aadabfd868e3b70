"""Finds streams whose process is gone without a word: killed, out of memory, or a forked child that just ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rlhfd_daemon.observation import Observation, Subject
from rlhfd_daemon.runs import Runs, Stream

# A process title can be read for a moment after the process is gone; and a restarting emitter needs its second.
SILENT_SECONDS = 3.0


def process_exists(pid: int, proc: Path = Path("/proc")) -> bool:
    """True if ``pid`` is a process that is not yet dead (a zombie has ended)."""
    try:
        state = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X")


def vanished(runs: Runs, now: float, exists: Callable[[int], bool] = process_exists) -> Iterator[Stream]:
    """The streams that have been silent for a while and whose process does not exist any more.

    Goes by the pid that the kernel reported for the connection; where that is unknown nothing is inferred.
    """
    for stream in runs.streams.values():
        silent = stream.ended is None and now - stream.last_seen > SILENT_SECONDS
        if silent and stream.peer.pid > 0 and not exists(stream.peer.pid):
            yield stream


def exits(runs: Runs, now: float) -> list[Observation]:
    """What is to be recorded of the streams that have :func:`vanished`."""
    return [
        Observation(
            subject=Subject(stream.run, stream.boot),
            event="stream_end",
            fields={
                "stream": stream.stream,
                "role": stream.role,
                "rank": stream.rank,
                "pid": stream.pid,
                "reason": "exited_without_bye",
            },
        )
        for stream in vanished(runs, now)
    ]
