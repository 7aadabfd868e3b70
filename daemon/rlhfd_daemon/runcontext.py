"""What a segment of the frame log must repeat, so that it can be understood without the segments before it.

Retention deletes old segments and a restart reads only the newest: a run's metadata, said once at its start, would be
lost after hours, and with it the units of its metrics and the ranks of its processes.
"""

from __future__ import annotations

from collections.abc import Iterator

from rlhfd_daemon.observation import Observation, Subject
from rlhfd_daemon.runs import DAEMON_ROLE, Run

__all__ = ["STREAMS_PER_EVENT", "run_context"]

STREAMS_PER_EVENT = 100  # well below the size of one frame


def run_context(run: Run) -> Iterator[Observation]:
    """The events ``run_context`` of a run that is under way; none for one that is over and for the node."""
    if not run.live:
        return
    subject = Subject(run.run, run.boot)
    if run.context:
        yield Observation(subject=subject, event="run_context", fields={"context": dict(run.context)})
    known = [one for one in run.streams.values() if one.role != DAEMON_ROLE and one.ended is None]
    for first in range(0, len(known), STREAMS_PER_EVENT):
        streams = [one.summary() for one in known[first : first + STREAMS_PER_EVENT]]
        yield Observation(subject=subject, event="run_context", fields={"streams": streams})
