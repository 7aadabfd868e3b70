"""A bound for what connections may cost: each lives a few seconds, and of too many the oldest is cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Connections"]

MAX_CONNECTIONS = 128
LIFETIME_SECONDS = 10.0


class Connections:
    """A protocol factory round another one. aiohttp waits for the end of a request's headers for ever; here nothing
    waits longer than 10 s, and whoever opens many connections loses the oldest of them."""

    def __init__(self, factory: Callable[[], asyncio.Protocol]) -> None:
        self._factory = factory
        self._open: dict[_Connection, asyncio.Transport] = {}

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self, self._factory())

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, connection: _Connection, transport: asyncio.Transport) -> None:
        """A connection was made."""
        self._open[connection] = transport
        if len(self._open) > MAX_CONNECTIONS:
            self._open.pop(next(iter(self._open))).abort()

    def closed(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._open.pop(connection, None)

    def close(self) -> None:
        """Cut all."""
        for transport in list(self._open.values()):
            transport.abort()


class _Connection(asyncio.Protocol):
    """Hands everything on."""

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self._connections = connections
        self._inner = inner
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LIFETIME_SECONDS, transport.abort)
        self._inner.connection_made(transport)
        self._connections.opened(self, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._connections.closed(self)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
