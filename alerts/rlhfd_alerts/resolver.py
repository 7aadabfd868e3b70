"""Names to addresses that a target may be at: resolved once, and connected to exactly that address."""

from __future__ import annotations

import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from rlhfd_alerts.addresses import refusal
from rlhfd_alerts.threads import in_thread

__all__ = ["GuardedResolver"]


class GuardedResolver(AbstractResolver):
    """Drops forbidden addresses from what a name resolves to. The client connects to what is returned here and asks
    no second time, so a name that changes its address in between (DNS rebinding) gains nothing."""

    def __init__(self, allow_private: bool, inner: AbstractResolver | None = None) -> None:
        self._allow_private = allow_private
        self._inner = inner or _SystemResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the allowed addresses of ``host``. Raises ``OSError`` if there are none."""
        found = await self._inner.resolve(host, port, family)
        reasons = {one["host"]: refusal(one["host"], self._allow_private) for one in found}
        allowed = [one for one in found if reasons[one["host"]] is None]
        if not allowed:
            reason = next((reason for reason in reasons.values() if reason), "no address")
            raise OSError(None, f"the name stands for {reason}")
        return allowed

    async def close(self) -> None:
        """Close the inner resolver."""
        await self._inner.close()


class _SystemResolver(AbstractResolver):
    """Asks the system, in a thread that is not waited for at exit: name servers that are silent take half a minute."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        flags = socket.AI_ADDRCONFIG
        found = await in_thread(
            lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=flags), "rlhfd-resolve"
        )
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in found
        ]  # fmt: skip

    async def close(self) -> None:
        return None
