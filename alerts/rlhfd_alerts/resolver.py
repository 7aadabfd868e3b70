"""Names to addresses that a target may be at: resolved once, and connected to exactly that address."""

from __future__ import annotations

import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from rlhfd_alerts.addresses import refusal

__all__ = ["GuardedResolver"]


class GuardedResolver(AbstractResolver):
    """Drops forbidden addresses from what a name resolves to. The client connects to what is returned here and asks
    no second time, so a name that changes its address in between (DNS rebinding) gains nothing."""

    def __init__(self, allow_private: bool, inner: AbstractResolver | None = None) -> None:
        self._allow_private = allow_private
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the allowed addresses of ``host``. Raises ``OSError`` if there are none."""
        if self._inner is None:
            self._inner = ThreadedResolver()  # here: it wants a running loop
        found = await self._inner.resolve(host, port, family)
        reasons = {one["host"]: refusal(one["host"], self._allow_private) for one in found}
        allowed = [one for one in found if reasons[one["host"]] is None]
        if not allowed:
            reason = next((reason for reason in reasons.values() if reason), "no address")
            raise OSError(None, f"the name stands for {reason}")
        return allowed

    async def close(self) -> None:
        """Close the inner resolver."""
        if self._inner is not None:
            await self._inner.close()
