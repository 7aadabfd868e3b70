"""Repeats what a receiver has told, where the other side forgets what it does not hear of."""

from __future__ import annotations

import asyncio

import structlog

from rlhfd_alerts.clock import Clock, SystemClock
from rlhfd_alerts.delivery import DeliveryWorker
from rlhfd_alerts.errors import DeliveryError
from rlhfd_alerts.receivers import Resending

__all__ = ["resend_forever"]

_log = structlog.get_logger("rlhfd.alerts")


async def resend_forever(target: str, receiver: Resending, worker: DeliveryWorker, clock: Clock | None = None) -> None:
    """Let ``receiver`` repeat itself at its interval, until cancelled; how that went counts for its target."""
    clock, never = clock or SystemClock(), asyncio.Event()
    while True:
        await clock.wait(never, receiver.resend_seconds)
        try:
            await receiver.resend(clock.now())
        except DeliveryError as error:
            worker.counters = worker.counters.failure(str(error), clock.now())
            _log.warning("repeating failed", target=target, error=str(error))
        else:
            worker.counters = worker.counters.accepted(0)
