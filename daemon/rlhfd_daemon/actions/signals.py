"""Sends a signal to a process of a run, if it is the very process that the run named."""

from __future__ import annotations

import os
import signal
import time

from rlhfd_daemon import procfs
from rlhfd_daemon.actions.act import ActionError
from rlhfd_daemon.procfs import CLOCK_TICKS
from rlhfd_daemon.runs import DAEMON_ROLE, Run, Stream

__all__ = ["send", "streams_of"]


def streams_of(run: Run | None, role: str, rank: int | None = None) -> list[Stream]:
    """The processes of ``run`` that are there and have this role (and rank, if one is given)."""
    if run is None or role == DAEMON_ROLE:
        return []
    streams = (one for one in run.streams.values() if one.ended is None and one.role == role)
    return [one for one in streams if rank is None or one.rank == rank]


def send(stream: Stream, number: signal.Signals) -> None:
    """Send it to the process of ``stream``, as the kernel named it. :raises ActionError: it is gone, another process
    has its number now, or it may not be signalled."""
    pid = stream.peer.pid
    if pid <= 1 or pid == os.getpid():
        raise ActionError(f"{stream.role}: its process id is not known here")
    try:
        held = os.pidfd_open(pid)
    except OSError as error:
        raise ActionError(f"{stream.role} (pid {pid}): {error.strerror}") from error
    try:
        # Held before it is looked at: whatever becomes of the number, the signal goes to the process that was seen.
        began = _began(pid)
        if began is None:
            raise ActionError(f"{stream.role} (pid {pid}) is gone")
        if began > stream.last_seen:
            raise ActionError(f"{stream.role} (pid {pid}) is gone, and another process has its number")
        signal.pidfd_send_signal(held, number)
    except OSError as error:
        raise ActionError(f"{stream.role} (pid {pid}): {error.strerror}") from error
    finally:
        os.close(held)


def _began(pid: int) -> float | None:
    """When the process began, in unix seconds by today's clock; ``None`` if it has ended."""
    found = procfs.stat(pid)
    if found is None or found.state in "ZX":
        return None
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - found.start_ticks / CLOCK_TICKS)
