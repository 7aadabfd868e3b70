"""One delivery worker per configured target, started, replaced and stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp

import rlhfd_daemon
from rlhfd_alerts.delivery import DeliveryWorker
from rlhfd_alerts.errors import AlertsError
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.receivers import Receiver, make_receiver
from rlhfd_alerts.target import Target
from rlhfd_daemon.config import TargetConfig, read_secrets
from rlhfd_daemon.errors import ConfigError


class Delivery:
    """The targets in force. ``start`` again with other targets replaces them; what is queued stays queued."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.workers: dict[str, DeliveryWorker] = {}
        self._environ = environ
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None
        self._outbox: Outbox | None = None

    async def start(self, targets: Mapping[str, TargetConfig], outbox: Outbox) -> None:
        """:raises ConfigError: a secret cannot be read or is none; the workers of before go on."""
        session = self._session or aiohttp.ClientSession()
        self._session, self._outbox = session, outbox
        workers = {name: self._worker(name, target, session, outbox) for name, target in targets.items()}
        await self._stop_workers(1.0)
        self.workers = workers
        self._tasks = [asyncio.create_task(worker.run()) for worker in workers.values()]

    def notify(self) -> None:
        """Something was put into the outbox."""
        for worker in self.workers.values():
            worker.notify()

    async def stop(self, timeout: float) -> None:
        """Let sends under way finish for at most ``timeout`` seconds. Safe to call twice."""
        await self._stop_workers(timeout)
        if self._session is not None:
            await self._session.close()
            self._session = None

    def status(self) -> dict[str, dict[str, object]]:
        """Per target: rows in the outbox by state, and the last error."""
        answer: dict[str, dict[str, object]] = {
            name: {"last_error": worker.counters.last_error} for name, worker in self.workers.items()
        }
        counts = {} if self._outbox is None else self._outbox.counts()
        for (name, state), count in counts.items():
            answer.setdefault(name, {})[state] = count
        return answer

    async def _stop_workers(self, timeout: float) -> None:
        await asyncio.gather(*(worker.stop(timeout) for worker in self.workers.values()))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def _worker(
        self, name: str, config: TargetConfig, session: aiohttp.ClientSession, outbox: Outbox
    ) -> DeliveryWorker:
        return DeliveryWorker(name, _receiver(name, config, session, self._environ), outbox)


def _receiver(name: str, config: TargetConfig, session: aiohttp.ClientSession, environ: Mapping[str, str]) -> Receiver:
    secrets = read_secrets(name, config, environ)
    target = Target(
        name=name, type=config.type, url=config.url, secrets=secrets, timeout_seconds=config.timeout_seconds
    )
    try:
        return make_receiver(target, session, version=rlhfd_daemon.__version__)
    except AlertsError as error:
        raise ConfigError(f"targets.{name}: {error}") from error


def check_targets(targets: Mapping[str, TargetConfig], environ: Mapping[str, str]) -> None:
    """:raises ConfigError: a target's secret is missing, unreadable or malformed, or its type unknown."""

    async def check() -> None:
        async with aiohttp.ClientSession() as session:
            for name, target in targets.items():
                _receiver(name, target, session, environ)

    asyncio.run(check())
