"""One worker per target: takes what is due from the outbox, sends it, marks what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import random as _random

import structlog

from rlhfd_alerts.clock import Clock, SystemClock
from rlhfd_alerts.errors import DeliveryError, OutboxError
from rlhfd_alerts.outbox import Delivery, Outbox
from rlhfd_alerts.receivers import Receiver
from rlhfd_alerts.retry import HORIZON_SECONDS, backoff

__all__ = ["DeliveryCounters", "DeliveryWorker", "backoff"]

_CANCEL_SECONDS = 1.0

_log = structlog.get_logger("rlhfd.alerts")


@dataclass(frozen=True, slots=True)
class DeliveryCounters:
    """Since start. ``failed`` counts attempts, ``dead`` notifications given up."""

    delivered: int = 0
    failed: int = 0
    dead: int = 0
    last_error: str | None = None


class DeliveryWorker:
    """Delivers to one target, longest due first, at least once, always under the same id.

    A failed notification waits by itself (exponential, with jitter), and the whole target waits for the sake of the
    other side: as long as it asked for in ``Retry-After``, else as long as its failures in a row suggest.
    The outbox is used from the event loop: its calls take about a millisecond.
    """

    def __init__(
        self,
        target_name: str,
        receiver: Receiver,
        outbox: Outbox,
        clock: Clock | None = None,
        random: Callable[[], float] = _random,
    ) -> None:
        self._target = target_name
        self._receiver = receiver
        self._outbox = outbox
        self._clock = clock or SystemClock()
        self._random = random
        self._log = _log.bind(target=target_name)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[object] | None = None
        self._stopping = False
        self._cancelled = False
        self._failures_in_row = 0
        self._paused_until = 0.0
        self.counters = DeliveryCounters()

    def notify(self) -> None:
        """Say that the outbox may hold something new."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver until :meth:`stop`; what is due by then gets one last try."""
        if self._stopping:
            return
        self._task = asyncio.current_task()
        try:
            while True:
                self._wake.clear()
                await self._deliver_due()
                if self._stopping:
                    return
                await self._clock.wait(self._wake, self._idle_seconds())
        except asyncio.CancelledError:
            # Our own stop() ran out of patience: a normal end, the outbox keeps the rest. Anyone else's is theirs.
            if not self._cancelled:
                raise
        finally:
            self._task = None

    async def stop(self, timeout: float) -> None:
        """End :meth:`run`: at most ``timeout`` seconds for what is due, then the attempt under way is cut off.

        Returns within ``timeout`` and one second. Safe to call twice, and before :meth:`run`.
        """
        self._stopping = True
        self._wake.set()
        task = self._task
        if task is None or task.done():
            return
        await asyncio.wait({task}, timeout=timeout)
        if task.done():
            return
        self._cancelled = True
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_SECONDS)

    async def _deliver_due(self) -> None:
        while self._pause_seconds() <= 0:
            delivery = self._next()
            if delivery is None:
                return
            await self._persist(await self._attempt(delivery))

    def _next(self) -> Delivery | None:
        try:
            return next(iter(self._outbox.due(self._target, self._clock.now(), 1)), None)
        except OutboxError as error:
            self._outbox_failed(error)
            return None

    def _idle_seconds(self) -> float | None:
        """How long there is nothing to do; ``None``: until notified."""
        now = self._clock.now()
        try:
            due = self._outbox.next_due(self._target, now)
        except OutboxError as error:
            self._outbox_failed(error)
            return self._pause_seconds()
        if due is None:
            return None
        return max(due - now, self._pause_seconds(), 0.0)

    async def _attempt(self, delivery: Delivery) -> Callable[[], None]:
        """Send once; return the outbox call that records what became of it."""
        try:
            await self._receiver.send(delivery.id, delivery.body, self._clock.now())
        except DeliveryError as error:
            return self._failed(delivery, error)
        except Exception as error:  # noqa: BLE001 - a receiver's defect must not end its target's deliveries
            self._log.exception("receiver failed unexpectedly", notification=delivery.id)
            return self._failed(delivery, DeliveryError(f"internal error: {type(error).__name__}", permanent=False))
        self._failures_in_row = 0
        now = self._clock.now()
        self.counters = replace(self.counters, delivered=self.counters.delivered + 1)
        return lambda: self._outbox.mark_delivered(delivery, now)

    def _failed(self, delivery: Delivery, error: DeliveryError) -> Callable[[], None]:
        text = str(error)
        counters = replace(self.counters, failed=self.counters.failed + 1, last_error=text)
        if error.permanent:
            self._failures_in_row = 0  # refused, so somebody is there
            self.counters = replace(counters, dead=counters.dead + 1)
            self._log.error("notification given up", notification=delivery.id, error=text)
            return lambda: self._outbox.mark_dead(delivery, text)
        self.counters = counters
        asked = error.retry_after or 0.0
        wait = min(max(asked, backoff(delivery.attempts + 1, self._random)), HORIZON_SECONDS)
        self._pause(asked)
        next_at = self._clock.now() + wait
        self._log.warning("delivery failed", notification=delivery.id, error=text, retry_in_seconds=round(wait, 1))
        return lambda: self._outbox.mark_retry(delivery, next_at, text)

    async def _persist(self, mark: Callable[[], None]) -> None:
        """Record an outcome, however long the disk is full: forgetting it would send the message again."""
        while True:
            try:
                return mark()
            except OutboxError as error:
                self._outbox_failed(error)
                if self._stopping:
                    return None
                await self._clock.wait(self._wake, self._pause_seconds())
                self._wake.clear()

    def _outbox_failed(self, error: OutboxError) -> None:
        self._log.error("outbox failed", error=str(error))
        self.counters = replace(self.counters, last_error=str(error))
        self._pause(0.0)

    def _pause(self, at_least: float) -> None:
        self._failures_in_row += 1
        wait = min(max(at_least, backoff(self._failures_in_row, self._random)), HORIZON_SECONDS)
        self._paused_until = self._clock.now() + wait

    def _pause_seconds(self) -> float:
        left = self._paused_until - self._clock.now()
        return 0.0 if left > HORIZON_SECONDS else left  # beyond the horizon: the clock was set back
