"""Services that a daemon talks to in tests."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from rlhfd_alerts.testing import ReceivedRequest, Reply, WebhookServer


class Server:
    """A service on loopback, in a thread of its own."""

    def __init__(self, *replies: Reply, port: int = 0) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._serve(replies, port), self._loop).result(10)

    async def _serve(self, replies: tuple[Reply, ...], port: int) -> WebhookServer:
        return await WebhookServer(*replies, port=port).__aenter__()

    @property
    def requests(self) -> list[ReceivedRequest]:
        return self._server.requests

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return self._server.url

    def bodies(self) -> list[Any]:
        return [json.loads(request.body) for request in list(self.requests)]

    def target(self, name: str, kind: str, *lines: str) -> str:
        """The section of the configuration of a target here."""
        rows = (f"[targets.{name}]", f'type = "{kind}"', f'url = "{self.url}"', "allow_private = true", *lines)
        return "\n".join(rows) + "\n"

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
