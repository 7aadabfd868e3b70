"""HTTP as receivers use it, against servers that break it: TLS, names, redirects, slow and silent ones."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from rlhfd_alerts.channel import HttpChannel, Sessions
from rlhfd_alerts.errors import DeliveryError, TargetError
from rlhfd_alerts.target import HttpSettings, Target
from rlhfd_alerts.testing import Reply, WebhookServer

CANARY = "canary-4711"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def attempt(url: str, **settings: Any) -> DeliveryError | str:
    """What one post to ``url`` comes to."""
    sessions = Sessions()
    chosen = HttpSettings(url=url, **{"allow_private": True, "timeout_seconds": 5.0, **settings})
    try:
        return await HttpChannel(Target("t", chosen, secrets=(CANARY,)), sessions, "1").post(b"{}", {}, time.time())
    except DeliveryError as error:
        return error if CANARY not in f"{error}{error.__cause__!r}" else pytest.fail("a secret is shown")
    finally:
        await sessions.close()


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


@contextlib.asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    ("status", "permanent", "gone"),
    [
        (200, None, False), (202, None, False), (204, None, False), (301, True, False), (302, True, False),
        (307, True, False), (308, True, False), (400, True, False), (401, True, False), (403, True, False),
        (404, True, False), (408, False, False), (410, True, True), (413, True, False), (422, True, False),
        (425, False, False), (429, False, False), (500, False, False), (502, False, False), (503, False, False),
        (504, False, False), (599, False, False),
    ],
)  # fmt: skip
def test_promise_D7_every_answer_has_its_class(status: int, permanent: bool | None, gone: bool) -> None:
    async def scenario() -> DeliveryError | str:
        async with WebhookServer() as elsewhere, WebhookServer(Reply(status, {"Location": elsewhere.url})) as server:
            outcome = await attempt(f"{server.url}/{CANARY}?k={CANARY}")
            assert elsewhere.requests == []
            assert len(server.requests) == 1
            return outcome

    outcome = run(scenario())
    if permanent is None:
        assert isinstance(outcome, str)
    else:
        assert isinstance(outcome, DeliveryError)
        assert (outcome.permanent, outcome.gone) == (permanent, gone)
        assert f"HTTP {status}" in str(outcome)


def test_promise_E13_a_certificate_that_nobody_vouches_for_is_refused_unless_told_otherwise(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))

    async def scenario() -> None:
        async with serving(accept, tls) as port:
            url = f"https://127.0.0.1:{port}/{CANARY}"
            refused = await attempt(url)
            assert isinstance(refused, DeliveryError)
            assert not refused.permanent
            assert "self-signed certificate" in str(refused) or "unable to get local issuer" in str(refused)
            assert await attempt(url, insecure=True) == "ok"
            assert await attempt(url, ca_file=str(bundle)) == "ok"
            missing = await attempt(url, ca_file=str(tmp_path / "none.pem"))
            assert isinstance(missing, DeliveryError)
            assert "ca_file cannot be used: No such file" in str(missing)

    run(scenario())


def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("example.org").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def scenario() -> None:
        async with serving(accept, tls) as port:
            refused = await attempt(f"https://127.0.0.1:{port}/", ca_file=str(tmp_path / "ca.pem"))
        assert "not valid for '127.0.0.1'" in str(refused) or "mismatch" in str(refused)

    run(scenario())


def test_a_server_that_speaks_no_tls_is_a_failure_to_try_again() -> None:
    async def scenario() -> None:
        async with serving(accept) as port:
            outcome = await attempt(f"https://127.0.0.1:{port}/{CANARY}")
        assert isinstance(outcome, DeliveryError)
        assert not outcome.permanent

    run(scenario())


def test_a_name_that_does_not_resolve_is_a_failure_to_try_again() -> None:
    outcome = run(attempt(f"http://no-such-host.invalid/{CANARY}"))
    assert isinstance(outcome, DeliveryError)
    assert not outcome.permanent
    assert str(outcome).startswith("cannot reach http://no-such-host.invalid/…: ")


def test_promise_E11_a_name_for_this_machine_needs_permission() -> None:
    async def scenario() -> None:
        sessions = Sessions()
        async with WebhookServer() as server:
            careful = sessions.of(HttpSettings(url="https://example.org"))
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await careful.get(f"http://localhost:{server.port}/")
            assert "loopback or private" in str(caught.value.os_error)
            allowing = sessions.of(HttpSettings(url="https://example.org", allow_private=True))
            assert (await allowing.get(f"http://localhost:{server.port}/")).status == 200
            assert len(server.requests) == 1
            with pytest.raises(TargetError, match="loopback or private"):
                await attempt(server.url, allow_private=False)
        await sessions.close()

    run(scenario())


@pytest.mark.parametrize("drip", [b"", b"H", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_server_that_drips_its_answer_is_given_up_in_time(drip: bytes) -> None:
    async def loris(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(drip)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await reader.read(100):
                writer.write(b"x")
                await writer.drain()
        writer.close()

    async def scenario() -> None:
        async with serving(loris) as port:
            began = time.monotonic()
            outcome = await attempt(f"http://127.0.0.1:{port}/", timeout_seconds=0.4)
            assert time.monotonic() - began < 12  # and not after 15 s, the default
        assert isinstance(outcome, DeliveryError)
        assert not outcome.permanent

    run(scenario())


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 999999 x\r\n\r\n", b"\x00" * 64 + b"\r\n\r\n"])
def test_an_answer_that_is_not_http_is_a_failure_to_try_again(answer: bytes) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def scenario() -> None:
        async with serving(nonsense) as port:
            outcome = await attempt(f"http://127.0.0.1:{port}/{CANARY}")
        assert isinstance(outcome, DeliveryError)
        assert not outcome.permanent

    run(scenario())


def test_promise_E11_proxies_of_the_environment_are_ignored_and_configured_ones_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        async with WebhookServer() as proxy, WebhookServer() as server:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            await attempt(server.url)
            assert (len(proxy.requests), len(server.requests)) == (0, 1)
            await attempt("http://no-such-host.invalid/x", proxy=f"http://127.0.0.1:{proxy.port}", allow_private=False)
            assert [request.headers["host"] for request in proxy.requests] == ["no-such-host.invalid"]

    run(scenario())


def test_an_answer_that_repeats_a_secret_is_not_shown() -> None:
    async def scenario() -> None:
        async with WebhookServer(
            Reply(400, body=f"bad key {CANARY}".encode()), Reply(400, body=b"bad\x1b[2Jkey")
        ) as one:
            assert str(await attempt(one.url)).endswith("/…")
            assert str(await attempt(one.url)).endswith("bad [2Jkey")

    run(scenario())
