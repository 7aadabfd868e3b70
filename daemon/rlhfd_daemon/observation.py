"""What the daemon sees with its own eyes, not from a frame: of the node, or of one run."""

from __future__ import annotations

import functools
import socket
from pathlib import Path

import msgspec

__all__ = ["Observation", "Subject", "node"]


class Subject(msgspec.Struct, frozen=True):
    """What is observed: one launch of a run, or the node itself (see :func:`node`)."""

    run: str
    boot: str


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics (``name`` to value), or an ``event`` with ``fields``; recorded before anything is decided on it.

    What tells several of a kind apart is in the name: ``gpu/0/power_watts``, ``process/PolicyModelActor-0/rss_bytes``.
    """

    subject: Subject
    step: int | None = None
    metrics: dict[str, float] = {}
    event: str | None = None
    fields: dict[str, object] = {}


@functools.cache
def node(boot_id: Path = Path("/proc/sys/kernel/random/boot_id")) -> Subject:
    """This node as a subject: run ``node:<host name>``, boot the kernel's id of its last start."""
    try:
        boot = boot_id.read_text().strip()
    except OSError:
        boot = "unknown"
    return Subject(f"node:{socket.gethostname()}"[:128], boot or "unknown")
