"""One worker per target: takes what is due from the outbox, sends it, marks what became of it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import random as _random

import structlog

from rlhfd_alerts.clock import Clock, SystemClock
from rlhfd_alerts.errors import DeliveryError, OutboxError
from rlhfd_alerts.health import Health
from rlhfd_alerts.outbox import Delivery, Outbox
from rlhfd_alerts.receivers import Digesting, Receiver
from rlhfd_alerts.retry import HORIZON_SECONDS, backoff

__all__ = ["DeliveryWorker", "backoff"]

_CANCEL_SECONDS = 1.0
_FOLD_FROM = 4  # fewer are told one by one
_FOLD_AT_MOST = 1000

_log = structlog.get_logger("rlhfd.alerts")


class DeliveryWorker:
    """Delivers to one target, longest due first, at least once, always under the same id.

    A failed notification waits by itself (exponential, with jitter), and the whole target waits for the sake of the
    other side: as long as it asked for in ``Retry-After``, else as long as its failures in a row suggest, and
    ``interval_seconds`` between any two attempts. What has gathered meanwhile is folded into one message where the
    receiver can. ``wanted`` says of a body whether the target is to be told at all. ``given_up`` hears of bodies that
    the target refused. A target that says it is gone is left alone until :meth:`enable`.
    The outbox is used from the event loop: its calls take about a millisecond.
    """

    def __init__(
        self,
        target_name: str,
        receiver: Receiver,
        outbox: Outbox,
        clock: Clock | None = None,
        random: Callable[[], float] = _random,
        *,
        interval_seconds: float = 0.0,
        wanted: Callable[[bytes], bool] = lambda _: True,
        given_up: Callable[[bytes, str], None] = lambda *_: None,
    ) -> None:
        self._target = target_name
        self._receiver = receiver
        self._outbox = outbox
        self._clock = clock or SystemClock()
        self._random = random
        self._interval_seconds = interval_seconds
        self._wanted = wanted
        self._given_up = given_up
        self._log = _log.bind(target=target_name)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[object] | None = None
        self._stopping = False
        self._cancelled = False
        self._failures_in_row = 0
        self._paused_until = 0.0
        self._one_by_one = False
        self.counters = Health()

    def notify(self) -> None:
        """Say that the outbox may hold something new."""
        self._wake.set()

    def enable(self) -> None:
        """Try again, although the target has said that it is gone, or has failed lately."""
        self.counters = self.counters.enabled()
        self._failures_in_row, self._paused_until = 0, 0.0
        self._wake.set()

    def disable(self, error: str, now: float) -> None:
        """Send nothing until :meth:`enable`; what is owed stays."""
        self.counters = self.counters.disabled(error, now)

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
        while self.counters.disabled_at is None and self._pause_seconds() <= 0:
            due = self._due()
            if not due:
                self._one_by_one = False
                return
            unwanted = [one for one in due if not self._wanted(one.body)]
            if unwanted:
                self.counters = replace(self.counters, skipped=self.counters.skipped + len(unwanted))
                now = self._clock.now()
                await self._persist(lambda: self._outbox.mark_delivered(unwanted, now))  # noqa: B023 - called here
            else:
                await self._persist(await self._attempt(due))

    def _due(self) -> list[Delivery]:
        """What to send next, together: one delivery, or as many as make a digest."""
        folds = isinstance(self._receiver, Digesting) and not self._one_by_one
        try:
            due = self._outbox.due(self._target, self._clock.now(), _FOLD_AT_MOST if folds else 1)
        except OutboxError as error:
            self._outbox_failed(error)
            return []
        return due if len(due) >= _FOLD_FROM else due[:1]

    def _idle_seconds(self) -> float | None:
        """How long there is nothing to do; ``None``: until notified."""
        now = self._clock.now()
        if self.counters.disabled_at is not None:
            return None
        try:
            due = self._outbox.next_due(self._target, now)
        except OutboxError as error:
            self._outbox_failed(error)
            return self._pause_seconds()
        if due is None:
            return None
        return max(due - now, self._pause_seconds(), 0.0)

    async def _attempt(self, due: Sequence[Delivery]) -> Callable[[], None]:
        """Send once; return the outbox call that records what became of it."""
        try:
            await self._send(due)
        except DeliveryError as error:
            return self._failed(due, error)
        except Exception as error:  # noqa: BLE001 - a receiver's defect must not end its target's deliveries
            # Without its text, and the place alone instead of a traceback: both may show a secret.
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{place.filename}:{place.lineno}"
            self._log.error("receiver failed unexpectedly", cause=type(error).__name__, where=where)
            return self._failed(due, DeliveryError(f"internal error: {type(error).__name__}", permanent=False))
        finally:
            self._hold_back(self._interval_seconds)
        self._failures_in_row = 0
        now = self._clock.now()
        self.counters = self.counters.accepted(len(due))
        return lambda: self._outbox.mark_delivered(due, now)

    async def _send(self, due: Sequence[Delivery]) -> None:
        now = self._clock.now()
        if len(due) > 1 and isinstance(self._receiver, Digesting):
            await self._receiver.send_digest([(one.id, one.body) for one in due], now)
        else:
            await self._receiver.send(due[0].id, due[0].body, now)

    def _failed(self, due: Sequence[Delivery], error: DeliveryError) -> Callable[[], None]:
        text, now = str(error), self._clock.now()
        log = self._log.bind(notification=due[0].id, notifications=len(due), error=text)
        if error.gone:
            self.disable(text, now)
            log.error("target is gone: disabled until the configuration is read again")
            return lambda: self._outbox.mark_retry(due, now, text)
        if error.permanent and len(due) > 1:
            self._one_by_one = True  # one of them is what it chokes on
            log.warning("digest refused: sending one by one")
            return lambda: self._outbox.mark_retry(due, now, text)
        if error.permanent:
            self._failures_in_row = 0
            self.counters = self.counters.refusal(text, len(due))
            log.error("notification given up")
            self._given_up(due[0].body, text)
            return lambda: self._outbox.mark_dead(due, text)
        self.counters = self.counters.failure(text, now)
        asked = error.retry_after or 0.0
        attempts = min(one.attempts for one in due)
        wait = min(max(asked, backoff(attempts + 1, self._random)), HORIZON_SECONDS)
        self._pause(asked)
        next_at = now + wait
        log.warning("delivery failed", retry_in_seconds=round(wait, 1))
        return lambda: self._outbox.mark_retry(due, next_at, text)

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
        self._hold_back(min(max(at_least, backoff(self._failures_in_row, self._random)), HORIZON_SECONDS))

    def _hold_back(self, seconds: float) -> None:
        if seconds > 0:
            self._paused_until = max(self._paused_until, self._clock.now() + seconds)

    def _pause_seconds(self) -> float:
        left = self._paused_until - self._clock.now()
        return 0.0 if left > HORIZON_SECONDS else left  # beyond the horizon: the clock was set back
