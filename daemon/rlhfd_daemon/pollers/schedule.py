"""Asks every poller at its interval, each in a task of its own: a slow or failing one delays nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from rlhfd_daemon.observation import Observation
from rlhfd_daemon.pollers import Poller

__all__ = ["Health", "Schedule"]

FAILED_POLL_SECONDS = 60.0  # the longest pause of a poller that keeps failing
STOP_SECONDS = 3.0
log = structlog.get_logger()


@dataclass
class Health:
    """How one poller fares. ``last_error`` is ``None`` after a poll that went well."""

    polls: int = 0
    failures: int = 0
    observations: int = 0
    last_seconds: float = 0.0
    last_error: str | None = None


class Schedule:
    """``record(observations, now_ns)`` takes what was seen, in the loop's thread."""

    def __init__(self, pollers: Sequence[Poller], record: Callable[[Sequence[Observation], int], None]) -> None:
        self.health = {poller.name: Health() for poller in pollers}
        self._pollers = tuple(pollers)
        self._record = record
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run(poller), name=poller.name) for poller in self._pollers]

    async def stop(self) -> None:
        """Stop all pollers; safe to call twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        stops = [asyncio.wait_for(poller.stop(), STOP_SECONDS) for poller in self._pollers]
        for poller, result in zip(self._pollers, await asyncio.gather(*stops, return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                log.warning("poller did not stop", poller=poller.name, error=repr(result))

    async def _run(self, poller: Poller) -> None:
        health, began, failed_in_a_row = self.health[poller.name], time.monotonic(), 0
        while True:
            turn = time.monotonic()
            try:
                seen = await self._poll(poller, health)
            except Exception as error:  # a supervised loop: a poller's failure is a number in the status, not the end
                failed_in_a_row += 1
                health.failures += 1
                described = f"{type(error).__name__}: {error}"[:300]
                if health.last_error != described:
                    log.warning("poller failed", poller=poller.name, error=described, exc_info=failed_in_a_row == 1)
                health.last_error = described
            else:
                failed_in_a_row, health.last_error = 0, None
                if seen:
                    self._record(seen, time.time_ns())
            pause = pause_seconds(poller.interval_seconds, turn - began, time.monotonic() - turn, failed_in_a_row)
            await asyncio.sleep(pause)

    async def _poll(self, poller: Poller, health: Health) -> list[Observation]:
        began = time.monotonic()
        try:
            seen: Iterable[Observation] = await poller.poll(time.time())
            found = list(seen)
        finally:
            health.polls += 1
            health.last_seconds = time.monotonic() - began
        health.observations += len(found)
        return found


def pause_seconds(interval: float, since_start: float, took: float, failed_in_a_row: int) -> float:
    """How long to wait after a turn that began ``since_start`` seconds after the first one and lasted ``took``.

    Keeps to the grid of ``interval`` without drifting, skips turns that were missed, never spends more than half of
    the time polling, and backs off to a minute while a poller fails.
    """
    if failed_in_a_row:
        return max(interval, min(FAILED_POLL_SECONDS, interval * 2.0 ** min(failed_in_a_row - 1, 16)))
    on_grid = interval - (since_start + took) % interval
    return max(on_grid, took)
