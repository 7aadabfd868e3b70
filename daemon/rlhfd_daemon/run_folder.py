"""The folder to which the relative paths in a run's arguments are relative."""

from __future__ import annotations

import os
from pathlib import Path

from rlhfd_daemon import procfs
from rlhfd_daemon.runs import DAEMON_ROLE, Run

__all__ = ["working_directory"]

WRITERS = ("PolicyModelActor", "ActorModelRayActor")  # else whichever process is known: they share their folder


def working_directory(run: Run, proc: Path = procfs.PROC) -> str | None:
    """That of the process which writes, if that is known, else of another one; ``None`` if of none."""
    streams = [one for one in run.streams.values() if one.ended is None and one.role != DAEMON_ROLE]
    for stream in sorted(streams, key=lambda one: one.role not in WRITERS):
        said = stream.start.get("cwd")
        if isinstance(said, str) and said.startswith("/"):
            return said
        try:
            return os.readlink(f"{proc}/{stream.peer.pid}/cwd")
        except OSError:
            continue
    return None
