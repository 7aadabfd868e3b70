"""The webhook receiver against a real server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from standardwebhooks import Webhook

from rlhfd_alerts.channel import Sessions
from rlhfd_alerts.errors import AlertsError, DeliveryError, SecretError, TargetError
from rlhfd_alerts.receivers.webhook import WebhookSettings
from rlhfd_alerts.target import Target
from rlhfd_alerts.testing import SECRET, Reply, WebhookServer, webhook_receiver

BODY = b'{"type":"alert.firing"}'


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 20))


async def send(url: str, timeout_seconds: float = 10.0) -> DeliveryError | None:
    sessions = Sessions()
    try:
        receiver = webhook_receiver(url, sessions=sessions, timeout_seconds=timeout_seconds)
        await receiver.send("msg_1", BODY, time.time())
    except DeliveryError as error:
        return error
    finally:
        await sessions.close()
    return None


def test_what_arrives_is_a_standard_webhook() -> None:
    async def scenario() -> None:
        async with WebhookServer() as server:
            assert await send(server.url) is None
            (request,) = server.requests
        assert (request.method, request.path, request.body) == ("POST", "/hook", BODY)
        assert request.headers["content-type"] == "application/json"
        assert request.headers["user-agent"] == "rlhfd/1.2.3"
        assert Webhook(SECRET).verify(request.body, dict(request.headers)) == json.loads(BODY)

    run(scenario())


def test_a_redirect_is_a_permanent_failure_and_not_followed() -> None:
    async def scenario() -> None:
        async with WebhookServer() as elsewhere, WebhookServer(Reply(302, {"Location": elsewhere.url})) as server:
            error = await send(server.url)
        assert error is not None
        assert error.permanent
        assert len(server.requests) == 1
        assert elsewhere.requests == []

    run(scenario())


def test_a_429_tells_how_long_to_wait() -> None:
    async def scenario() -> None:
        async with WebhookServer(Reply(429, {"Retry-After": "7"}, b"slow\x1b[31m down")) as server:
            error = await send(server.url)
        assert error is not None
        assert (error.permanent, error.retry_after) == (False, 7.0)
        assert str(error).endswith(": slow [31m down")

    run(scenario())


def test_a_server_that_hangs_is_given_up_in_time_and_worth_another_try() -> None:
    async def scenario() -> None:
        async with WebhookServer(Reply(hang=True)) as server:
            started = time.monotonic()
            error = await send(server.url, timeout_seconds=0.3)
            assert time.monotonic() - started < 12  # and not after 15 s, the default
        assert error is not None
        assert not error.permanent

    run(scenario())


@pytest.mark.parametrize(("status", "expected"), [(b"200 OK", None), (b"503 Busy", False)])
def test_an_answer_whose_body_never_ends_counts_by_its_status(status: bytes, expected: bool | None) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 1000000\r\n\r\n")
        await reader.read()  # the rest of the request, then until the client hangs up
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            error = await send(f"http://{host}:{port}/", timeout_seconds=1.0)
        assert (error and error.permanent) == expected
        assert error is None or "503" in str(error)

    run(scenario())


@pytest.mark.parametrize("reply", [Reply(400, body=b"echo /canary-path?k=canary-query"), Reply(500), Reply(302), None])
def test_no_error_text_repeats_the_confidential_parts_of_the_url(reply: Reply | None) -> None:
    async def scenario() -> None:
        async with WebhookServer(*([reply] if reply else [])) as server:
            url = f"http://127.0.0.1:{server.port}/canary-path?k=canary-query"
            error = await send(url) if reply else None
        error = error or await send(url)  # without a reply: nobody listens any more
        assert error is not None
        assert "http://127.0.0.1:" in str(error)
        assert "canary" not in str(error)
        assert error.__cause__ is None

    run(scenario())


@pytest.mark.parametrize(
    ("url", "secret", "error", "reason"),
    [
        ("http://x/", "", SecretError, "needs a secret"),
        ("http://x/", "whsec_canary", SecretError, "webhook secret"),
        ("ftp://canary/", SECRET, TargetError, "http://"),
        ("canary", SECRET, TargetError, "http://"),
        ("http:///canary", SECRET, TargetError, "http://"),
        ("http://x:canary/", SECRET, TargetError, "http://"),
        ("http://x:99999/canary", SECRET, TargetError, "http://"),
        ("http://x/canary\r\nX: y", SECRET, TargetError, "http://"),
        ("http://canary:canary@x/", SECRET, TargetError, "user name or password"),
    ],
)
def test_an_unusable_target_is_refused_when_made(url: str, secret: str, error: type[AlertsError], reason: str) -> None:
    with pytest.raises(error, match=reason) as caught:
        webhook_receiver(url, secret)
    assert "canary" not in str(caught.value)


def test_a_target_shows_nothing_confidential() -> None:
    target = Target("a", WebhookSettings(url="https://h/canary"), "https://h/canary", ("canary",))
    assert "canary" not in repr(target)
    assert "canary" not in f"{target.settings}"
