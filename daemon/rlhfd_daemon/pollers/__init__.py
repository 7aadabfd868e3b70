"""Pollers look at the node at intervals. To add one: a file here, a section in config.py, a line in :func:`build`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from rlhfd_daemon.config import PollersConfig
from rlhfd_daemon.observation import Observation
from rlhfd_daemon.pollers.checkpoints import CheckpointPoller
from rlhfd_daemon.pollers.disks import DiskPoller
from rlhfd_daemon.pollers.host import HostPoller
from rlhfd_daemon.pollers.processes import ProcessPoller
from rlhfd_daemon.pollers.ray import RayPoller
from rlhfd_daemon.pollers.reward_probe import RewardProbePoller
from rlhfd_daemon.process_names import ProcessNames
from rlhfd_daemon.runs import Runs

__all__ = ["Poller", "build"]


class Poller(Protocol):
    """One source of observations. Lives in the daemon's loop: what may hang goes into a thread or a child process."""

    name: str
    interval_seconds: float

    async def poll(self, now: float) -> Iterable[Observation]:
        """Look once; ``now`` in Unix seconds. May raise: the failure is counted and the poller asked again later."""
        ...

    async def stop(self) -> None:
        """Let go of everything; bounded, safe to call twice."""
        ...


def build(config: PollersConfig, runs: Runs, state_dir: Path, names: ProcessNames | None = None) -> tuple[Poller, ...]:
    """The enabled pollers. ``runs`` tells which processes belong to which run and role, ``names`` what they are called;
    ``state_dir`` is the daemon's."""
    found: list[Poller] = []
    if config.host.enabled:
        found.append(HostPoller(config.host))
    if config.processes.enabled:
        found.append(ProcessPoller(config.processes, runs, names))
    if config.disks.enabled:
        found.append(DiskPoller(config.disks, runs, state_dir))
    if config.ray.enabled:
        found.append(RayPoller(config.ray, runs, names))
    if config.checkpoints.enabled:
        found.append(CheckpointPoller(config.checkpoints, runs, state_dir))
    if config.reward_probe.pairs:
        found.append(RewardProbePoller(config.reward_probe, state_dir))
    return tuple(found)
