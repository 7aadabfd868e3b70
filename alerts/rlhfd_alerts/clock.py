"""The time a delivery worker lives by; injected, so that tests and replays own it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Wall time to decide by (it must outlive a restart), and waiting."""

    def now(self) -> float:
        """Return unix seconds."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Return when ``event`` is set or ``seconds`` have passed; ``None`` waits for the event alone."""


class SystemClock:
    """The machine's clock; waiting is monotonic, so a jump of the wall clock does not stretch it."""

    def now(self) -> float:
        """Return unix seconds."""
        return time.time()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Return when ``event`` is set or ``seconds`` have passed."""
        waiter = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({waiter}, timeout=seconds)
        finally:
            waiter.cancel()
