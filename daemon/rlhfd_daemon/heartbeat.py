"""Calls a URL as long as all is well (a dead man's switch): that it stops is what tells somebody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

import rlhfd_daemon
from rlhfd_alerts.channel import HttpChannel, Sessions
from rlhfd_alerts.errors import AlertsError, DeliveryError
from rlhfd_alerts.target import Target
from rlhfd_daemon.config_targets import HeartbeatConfig, read_target
from rlhfd_daemon.errors import ConfigError

__all__ = ["Heartbeat"]

log = structlog.get_logger()


class Heartbeat:
    """``unwell`` says why not to call, ``None`` if all is well; asked in the daemon's own loop, so that a loop which
    no longer turns is silent, too."""

    def __init__(self, config: HeartbeatConfig, environ: Mapping[str, str], unwell: Callable[[], str | None]) -> None:
        self._config = config
        self._environ = environ
        self._unwell = unwell
        self._sessions = Sessions()
        self._task: asyncio.Task[None] | None = None
        self.sent_total = 0
        self.failed_total = 0
        self.withheld_total = 0
        self.last_sent_at: float | None = None
        self.last_error: str | None = None

    def start(self) -> None:
        """:raises ConfigError: the URL cannot be read or used."""
        if self._config.enabled:
            channel = heartbeat_channel(self._config, self._environ, self._sessions)
            self._task = asyncio.create_task(self._beat_forever(channel), name="heartbeat")

    async def stop(self) -> None:
        """Safe to call twice, and before :meth:`start`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._sessions.close()

    def status(self) -> dict[str, object]:
        """Counters since the start, and how the last call went."""
        return {
            "enabled": self._config.enabled,
            "sent_total": self.sent_total,
            "failed_total": self.failed_total,
            "withheld_total": self.withheld_total,
            "last_sent_at": self.last_sent_at,
            "last_error": self.last_error,
        }

    async def _beat_forever(self, channel: HttpChannel) -> None:
        while True:
            await self._beat(channel)
            await asyncio.sleep(self._config.interval_seconds)

    async def _beat(self, channel: HttpChannel) -> None:
        reason = self._unwell()
        if reason is not None:
            self.withheld_total += 1
            log.error("heartbeat withheld", reason=reason)
            return
        try:
            await channel.post(b"", {}, time.time(), method=self._config.method)
        except DeliveryError as error:
            self.failed_total += 1
            self.last_error = str(error)
            log.warning("heartbeat failed", error=str(error))
        else:
            self.sent_total += 1
            self.last_sent_at, self.last_error = time.time(), None


def heartbeat_channel(config: HeartbeatConfig, environ: Mapping[str, str], sessions: Sessions) -> HttpChannel:
    """:raises ConfigError: the URL cannot be read or used."""
    settings = config.settings()
    url = read_target("heartbeat", settings, environ, section="").url
    try:
        return HttpChannel(Target("heartbeat", settings, url), sessions, rlhfd_daemon.__version__)
    except AlertsError as error:
        raise ConfigError(f"heartbeat: {error}") from error
