"""Stand-ins for tests, ours and yours: a finding, a clock, a receiver in memory, a webhook server."""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from rlhfd_alerts.channel import Sessions
from rlhfd_alerts.context import Context
from rlhfd_alerts.errors import DeliveryError
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_alerts.receivers import Receiver, make_receiver
from rlhfd_alerts.receivers.webhook import WebhookSettings
from rlhfd_alerts.target import Target

__all__ = [
    "SECRET",
    "ManualClock",
    "MemoryReceiver",
    "ReceivedRequest",
    "Reply",
    "WebhookServer",
    "example_finding",
    "webhook_receiver",
]

SECRET = "whsec_" + base64.b64encode(b"not a secret: for tests only").decode()
"""A well-formed secret that protects nothing."""

_EXAMPLE = Finding(
    run="example",
    boot="boot-1",
    rule="kl_runaway",
    family="policy",
    metric="train/kl",
    severity=Severity.WARNING,
    active=True,
    step=120,
    time=1_700_000_000.0,
    value=0.75,
    baseline=0.05,
    onset_step=112,
    onset_time=1_699_999_900.0,
    summary="train/kl is 15 times its baseline",
    remedy="raise the KL coefficient",
    evidence=((112, 0.05), (116, 0.2), (120, 0.75)),
    labels=(("role", "actor"), ("rank", "0")),
)


def example_finding(**changes: Any) -> Finding:
    """Return a plausible finding with ``changes`` to its fields."""
    return replace(_EXAMPLE, **changes)


def webhook_receiver(url: str, secret: str = SECRET, sessions: Sessions | None = None, **settings: Any) -> Receiver:
    """Return the receiver for a webhook at ``url``, which may be on this machine; ``settings`` are the target's."""
    settings = {"allow_private": True, **settings}
    secrets = (secret,) if secret else ()
    target = Target("hook", WebhookSettings(url=url, **settings), secrets=secrets)
    return make_receiver(target, Context(version="1.2.3", sessions=sessions or Sessions()))


class ManualClock:
    """A :class:`~rlhfd_alerts.clock.Clock` that stands still until :meth:`advance`."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._moved = asyncio.Event()
        self.waits: list[float | None] = []
        """The seconds of every wait so far, ``None`` for waiting without limit."""

    def now(self) -> float:
        """Return unix seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass (or, negative, be set back) and wake who waits."""
        self._now += seconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Return when ``event`` is set or ``seconds`` have passed by :meth:`advance`."""
        self.waits.append(seconds)
        deadline = None if seconds is None else self._now + seconds
        while not event.is_set() and (deadline is None or self._now < deadline):
            waiters = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._moved.wait())}
            try:
                await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for waiter in waiters:
                    waiter.cancel()


class MemoryReceiver:
    """Keeps what it is sent. ``failures`` are raised first, one per attempt."""

    def __init__(self, *failures: DeliveryError) -> None:
        self.attempts: list[tuple[str, float]] = []
        """(notification id, now) of every attempt, failed ones too."""
        self.sent: list[tuple[str, bytes]] = []
        self._failures = deque(failures)

    def fail(self, *failures: DeliveryError) -> None:
        """Append failures for the coming attempts."""
        self._failures.extend(failures)

    async def send(self, notification_id: str, body: bytes, now: float) -> None:
        """Keep the message, or raise the next scripted failure."""
        self.attempts.append((notification_id, now))
        if self._failures:
            raise self._failures.popleft()
        self.sent.append((notification_id, body))


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as it arrived; header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer; ``hang`` never answers, until the server closes."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    hang: bool = False


class WebhookServer:
    """An HTTP server on 127.0.0.1 that records requests and answers by script, then with 200.

    Use as ``async with WebhookServer(Reply(503), Reply(hang=True)) as server`` and post to ``server.url``.
    """

    def __init__(self, *replies: Reply, port: int = 0) -> None:
        self.requests: list[ReceivedRequest] = []
        self._replies = deque(replies)
        self._port = port
        self._arrived = asyncio.Event()
        self._closing = asyncio.Event()
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=1.0)

    @property
    def port(self) -> int:
        """The port; known once the server has started."""
        return self._port

    @property
    def url(self) -> str:
        """Where to post."""
        return f"http://127.0.0.1:{self._port}/hook"

    def script(self, *replies: Reply) -> None:
        """Append answers for the coming requests."""
        self._replies.extend(replies)

    async def wait_for(self, count: int, timeout: float = 10.0) -> None:
        """Return once ``count`` requests have arrived in all; raises ``asyncio.TimeoutError`` after ``timeout`` s."""
        await asyncio.wait_for(self._count_reached(count), timeout)

    async def __aenter__(self) -> WebhookServer:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        await self._runner.cleanup()

    async def _count_reached(self, count: int) -> None:
        while len(self.requests) < count:
            self._arrived.clear()
            await self._arrived.wait()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(ReceivedRequest(request.method, request.path_qs, headers, await request.read()))
        self._arrived.set()
        reply = self._replies.popleft() if self._replies else Reply()
        if reply.hang:
            await self._closing.wait()
        return web.Response(status=reply.status, headers=dict(reply.headers), body=reply.body)
