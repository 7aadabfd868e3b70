"""One delivery worker per configured target, started, replaced and stopped together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

import rlhfd_daemon
from rlhfd_alerts.context import Context
from rlhfd_alerts.delivery import DeliveryWorker
from rlhfd_alerts.errors import AlertsError
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.receivers import Receiver, make_receiver
from rlhfd_alerts.target import TargetSettings
from rlhfd_daemon.config_targets import read_target
from rlhfd_daemon.errors import ConfigError


class Delivery:
    """The targets in force. ``start`` again with other targets replaces them; what is queued stays queued."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.workers: dict[str, DeliveryWorker] = {}
        self._environ = environ
        self._tasks: list[asyncio.Task[None]] = []
        self._context = context_of()
        self._outbox: Outbox | None = None

    async def start(self, targets: Mapping[str, TargetSettings], outbox: Outbox) -> None:
        """:raises ConfigError: a secret cannot be read or is none; the workers of before go on."""
        self._outbox = outbox
        context = context_of()
        receivers = {name: receiver(name, target, context, self._environ) for name, target in targets.items()}
        await self._stop_workers(1.0)
        self._context = context
        self.workers = {name: DeliveryWorker(name, one, outbox) for name, one in receivers.items()}
        self._tasks = [asyncio.create_task(worker.run()) for worker in self.workers.values()]

    def notify(self) -> None:
        """Something was put into the outbox."""
        for worker in self.workers.values():
            worker.notify()

    async def stop(self, timeout: float) -> None:
        """Let sends under way finish for at most ``timeout`` seconds. Safe to call twice."""
        await self._stop_workers(timeout)

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
        await self._context.sessions.close()


def context_of() -> Context:
    """What the receivers of this daemon share."""
    return Context(version=rlhfd_daemon.__version__, host=socket.gethostname())


def receiver(name: str, settings: TargetSettings, context: Context, environ: Mapping[str, str]) -> Receiver:
    """:raises ConfigError: a secret is missing, unreadable or malformed, or something else makes it unusable."""
    target = read_target(name, settings, environ)
    try:
        return make_receiver(target, context)
    except AlertsError as error:
        raise ConfigError(f"targets.{name}: {error}") from error


def check_targets(targets: Mapping[str, TargetSettings], environ: Mapping[str, str]) -> None:
    """:raises ConfigError: see :func:`receiver`."""
    for name, settings in targets.items():
        receiver(name, settings, context_of(), environ)
