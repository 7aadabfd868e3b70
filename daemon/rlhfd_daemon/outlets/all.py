"""All outlets together: the latest values behind `/metrics`, the web server, the files of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rlhfd_daemon.config import Config, PollersConfig
from rlhfd_daemon.outlets.http import HttpServer, Renderer
from rlhfd_daemon.outlets.latest import Latest
from rlhfd_daemon.outlets.steps import Steps
from rlhfd_daemon.pipeline import Sink
from rlhfd_daemon.runs import Runs

__all__ = ["Outlets", "lives"]

MISSED_POLLS, MISSED_SECONDS = 3, 60.0  # pollers pause for longer where the node is slow


def lives(config: PollersConfig) -> dict[str, float]:
    """For :class:`~rlhfd_daemon.outlets.latest.Latest`: by the first part of a name how long its value holds."""
    gpu, processes = config.gpu.interval_seconds, config.processes.interval_seconds
    intervals = {
        "gpu": gpu,
        "host": config.host.interval_seconds,
        "disk": config.disks.interval_seconds,
        "process": max(gpu, processes),
        "cgroup": processes,
    }
    return {name: MISSED_SECONDS + MISSED_POLLS * interval for name, interval in intervals.items()}


class Outlets:
    """``sinks`` are for the pipeline. ``status`` answers as :func:`rlhfd_daemon.status.status`; ``unhealthy`` says why
    the daemon should be started again, or ``None``."""

    def __init__(
        self,
        config: Config,
        runs: Runs,
        environ: Mapping[str, str],
        *,
        status: Callable[[], dict[str, object]],
        unhealthy: Callable[[], str | None],
    ) -> None:
        self.latest = Latest(runs, polled=lives(config.pollers))
        self.steps = Steps(config.steps, Path(config.daemon.state_dir) / "runs", runs)
        self.http = HttpServer(config.http, environ, renderer=self._renderer, unhealthy=unhealthy)
        self._writes_steps = config.steps.enabled
        self._status = status

    @property
    def sinks(self) -> tuple[Sink, ...]:
        return (self.latest, self.steps) if self._writes_steps else (self.latest,)

    async def start(self) -> None:
        """:raises ConfigError: ``http.token_file`` cannot be used."""
        await self.http.start()
        if self._writes_steps:
            await self.steps.start()

    async def stop(self) -> None:
        """Stop all; bounded, safe to call twice."""
        await self.http.stop()
        await self.steps.stop()

    def status(self) -> dict[str, object]:
        """The parts ``http`` and ``steps`` of the daemon's status."""
        return {"http": self.http.status(), "steps": self.steps.status()}

    def _renderer(self) -> Renderer:
        from rlhfd_daemon.outlets.prometheus import Exposition  # only where there is a page to be served

        return Exposition(self.latest, self._status)
