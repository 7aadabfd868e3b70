"""The web server: two addresses, bounds for every connection, and nothing for who may not ask."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from rlhfd_daemon.config import HttpConfig, load
from rlhfd_daemon.errors import ConfigError
from rlhfd_daemon.outlets import connections
from rlhfd_daemon.outlets.access import Access, Listen, parse_listen, read_token
from rlhfd_daemon.outlets.http import HttpServer

T = TypeVar("T")
TOKEN = "s3cret-s3cret-s3cret"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Renderer:
    """Counts the pages that it makes."""

    def __init__(self) -> None:
        self.pages = 0

    def gather(self) -> int:
        self.pages += 1
        return self.pages

    def render(self, scrape: int, accept: str = "") -> tuple[bytes, str]:
        return f"page {scrape} {'openmetrics' if accept else 'text'}\n".encode() * 100, "text/plain"


def served(
    config: HttpConfig, talk: Callable[[HttpServer], Awaitable[T]], unhealthy: Callable[[], str | None] = lambda: None
) -> T:
    """What ``talk`` returns while a server runs."""

    async def main() -> T:
        server = HttpServer(config, {}, renderer=Renderer, unhealthy=unhealthy)
        assert await server.start() is None
        try:
            return await talk(server)
        finally:
            await server.stop()
            await server.stop()

    return asyncio.run(asyncio.wait_for(main(), 30))


@contextlib.asynccontextmanager
async def connection(server: HttpServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    assert server.address is not None
    if server.address.startswith("/"):
        reader, writer = await asyncio.open_unix_connection(server.address)
    else:
        host, _, port = server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def said(server: HttpServer, request: bytes) -> bytes:
    """The answer to raw bytes, as far as there is one."""
    async with connection(server) as (reader, writer):
        writer.write(request)
        with contextlib.suppress(ConnectionError):
            return await reader.read()
        return b""


async def asked(server: HttpServer, path: str, method: str = "GET", host: str = "localhost", **headers: str) -> Answer:
    lines = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    text = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    head, _, body = (await said(server, f"{text}\r\n".encode())).partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    return Answer(int(first.split()[1]), dict(line.split(": ", 1) for line in rest), body)


LOCAL = HttpConfig(listen="127.0.0.1:0")


def test_metrics_and_health_are_served_and_nothing_else() -> None:
    async def talk(server: HttpServer) -> list[tuple[int, bytes]]:
        paths = ("/metrics", "/healthz", "/", "/metrics/", "/api/v1/status", "/metrics?x=1", "//metrics")
        return [(answer.status, answer.body[:11]) for answer in [await asked(server, path) for path in paths]]

    assert served(LOCAL, talk) == [
        (200, b"page 1 text"), (200, b"ok\n"), (404, b"Not Found\n"), (404, b"Not Found\n"), (404, b"Not Found\n"),
        (200, b"page 1 text"), (404, b"Not Found\n"),
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_changed(method: str) -> None:
    assert served(LOCAL, lambda server: asked(server, "/metrics", method)).status == 405


def test_each_answer_ends_its_connection_and_is_not_to_be_stored() -> None:
    answer = served(LOCAL, lambda server: asked(server, "/metrics"))
    assert (answer.headers["Connection"], answer.headers["Cache-Control"]) == ("close", "no-store")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_page_is_compressed_when_asked_and_made_once_a_second_however_often() -> None:
    async def talk(server: HttpServer) -> list[Answer]:
        requests = [asked(server, "/metrics", Accept_Encoding="gzip, deflate") for _ in range(20)]
        return await asyncio.gather(*requests, asked(server, "/metrics"))

    *zipped, plain = served(LOCAL, talk)
    assert {answer.headers.get("Content-Encoding") for answer in zipped} == {"gzip"}
    bodies = {gzip.decompress(answer.body) for answer in zipped} | {plain.body}
    assert len(bodies) <= 2, "one with and one without compression at most"


def test_openmetrics_goes_to_who_accepts_it() -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    assert b"openmetrics" in served(LOCAL, lambda server: asked(server, "/metrics", Accept=accept)).body


def test_unhealthy_is_said_with_the_reason() -> None:
    answer = served(LOCAL, lambda server: asked(server, "/healthz"), lambda: "No space left on device")
    assert (answer.status, answer.body) == (503, b"No space left on device\n")


def test_200_half_open_connections_hurt_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LIFETIME_SECONDS", 0.5)

    async def talk(server: HttpServer) -> Answer:
        async with contextlib.AsyncExitStack() as stack:
            half = [await stack.enter_async_context(connection(server)) for _ in range(200)]
            for _, writer in half:
                writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            answer = await asked(server, "/metrics")
            ends = await asyncio.gather(*(reader.read() for reader, _ in half), return_exceptions=True)
            assert all(end == b"" or isinstance(end, ConnectionError) for end in ends)
        return answer

    assert served(LOCAL, talk).status == 200


def test_a_connection_that_says_nothing_is_cut_off_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LIFETIME_SECONDS", 0.05)

    async def main() -> int:
        bounded = connections.Connections(asyncio.Protocol)
        server = await asyncio.get_running_loop().create_server(bounded, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return len(bounded)

    assert asyncio.run(main()) == 0


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01garbage\r\n\r\n", b"GET /metrics\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
     b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 9000 + b"\r\n\r\n"],
    ids=["tls", "http09", "nul", "long line", "long header"],
)  # fmt: skip
def test_garbage_is_refused_and_leaves_no_line_in_the_log(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def talk(server: HttpServer) -> tuple[bytes, int]:
        return await said(server, garbage), (await asked(server, "/healthz")).status

    answer, status = served(LOCAL, talk)
    assert answer.splitlines()[0].split()[1] in (b"400", b"421")
    assert status == 200
    assert caplog.records == []


def test_a_megabyte_of_headers_is_not_read() -> None:
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 25_000

    async def talk(server: HttpServer) -> int:
        assert b" 200 " not in await said(server, request)
        return (await asked(server, "/metrics")).status

    assert served(LOCAL, talk) == 200


@pytest.mark.parametrize(
    ("host", "allowed", "status"),
    [
        ("localhost", (), 200), ("LOCALHOST:9469", (), 200), ("127.0.0.1:9469", (), 200), ("127.1.2.3", (), 200),
        ("[::1]:9469", (), 200), ("localhost.", (), 200),
        ("evil.example", (), 421), ("localhost.evil.example", (), 421), ("10.0.0.7:9469", (), 421), ("", (), 400),
        ("127.0.0.1.evil.example:9469", (), 421), ("localhost:evil", (), 421), ("0.0.0.0:9469", (), 421),
        ("node-7:9469", ("node-7",), 200), ("NODE-7", ("node-7",), 200), ("node-8", ("node-7",), 421),
    ],
)  # fmt: skip
def test_only_names_of_this_machine_are_served_without_a_token(
    host: str, allowed: tuple[str, ...], status: int
) -> None:
    config = HttpConfig(listen="127.0.0.1:0", allowed_hosts=allowed)

    async def talk(server: HttpServer) -> int:
        header = f"Host: {host}" if host else "X: y"
        return int((await said(server, f"GET /metrics HTTP/1.1\r\n{header}\r\n\r\n".encode())).split()[1])

    assert served(config, talk) == status


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("authorization", "status"),
    [(f"Bearer {TOKEN}", 200), (f"bearer  {TOKEN}", 200), (f"Bearer {TOKEN}x", 401), (f"Bearer {TOKEN[:-1]}", 401),
     (f"Basic {TOKEN}", 401), (TOKEN, 401), ("", 401), ("Bearer ", 401), ("Bearer é", 401)],
)  # fmt: skip
def test_with_a_token_only_its_bearer_gets_metrics(authorization: str, status: int, token_file: Path) -> None:
    config = HttpConfig(listen="127.0.0.1:0", token_file=str(token_file))

    async def talk(server: HttpServer) -> tuple[Answer, Answer]:
        answer = await asked(server, "/metrics", host="any.example", Authorization=authorization)
        return answer, await asked(server, "/healthz", host="any.example")

    answer, health = served(config, talk)
    assert answer.status == status
    assert answer.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    assert health.status == 200


def test_it_listens_on_a_unix_socket_of_its_owner_and_leaves_none(short_dir: Path) -> None:
    path = short_dir / "http.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    async def talk(server: HttpServer) -> tuple[int, int]:
        return (await asked(server, "/metrics", host="whatever")).status, stat.S_IMODE(path.stat().st_mode)

    assert served(HttpConfig(listen=str(path)), talk) == (200, 0o600)
    assert not path.exists()


def test_an_address_that_is_taken_is_a_reason_and_no_error(short_dir: Path) -> None:
    for listen in ("127.0.0.1:0", str(short_dir / "http.sock")):

        async def talk(server: HttpServer) -> tuple[str | None, dict[str, object]]:
            assert server.address is not None
            other = HttpServer(HttpConfig(listen=server.address), {}, renderer=Renderer, unhealthy=lambda: None)
            reason = await other.start()
            await other.stop()
            assert (await asked(server, "/healthz")).status == 200, "the first is left alone"
            return reason, other.status()

        reason, status = served(HttpConfig(listen=listen), talk)
        assert reason == f"http.listen: {status['listen']}: Address already in use"
        assert (status["error"], status["address"]) == (reason, None)


def test_a_file_is_not_taken_for_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("precious")

    async def main() -> str | None:
        server = HttpServer(HttpConfig(listen=str(path)), {}, renderer=Renderer, unhealthy=lambda: None)
        reason = await server.start()
        await server.stop()
        return reason

    assert asyncio.run(main()) is not None
    assert path.read_text() == "precious"


def test_nowhere_to_listen_is_no_server() -> None:
    async def main() -> dict[str, object]:
        server = HttpServer(HttpConfig(listen=""), {}, renderer=Renderer, unhealthy=lambda: None)
        assert await server.start() is None
        await server.stop()
        return server.status()

    assert asyncio.run(main())["address"] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None), ("127.0.0.1:9469", Listen("127.0.0.1", 9469)), ("localhost:0", Listen("127.0.0.1", 0)),
        ("[::1]:80", Listen("::1", 80)), ("0.0.0.0:1", Listen("0.0.0.0", 1)), ("/run/x", Listen("", 0, "/run/x")),
    ],
)  # fmt: skip
def test_where_to_listen_is_understood(text: str, expected: Listen | None) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    "text", ["9469", ":9469", "127.0.0.1", "127.0.0.1:", "h:1", "127.0.0.1:65536", "1:²", "/" * 200]
)
def test_where_nobody_can_listen_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rlhfd.toml"
    path.write_text(f'[http]\nlisten = "{text}"', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"http\.listen: "):
        load(path, {"HOME": str(tmp_path)})


@pytest.mark.parametrize("listen", ["0.0.0.0:9469", "[::]:9469", "192.0.2.1:9469"])
def test_promise_E14_what_others_can_reach_needs_a_token(listen: str, tmp_path: Path, token_file: Path) -> None:
    path = tmp_path / "rlhfd.toml"
    path.write_text(f'[http]\nlisten = "{listen}"')
    with pytest.raises(ConfigError) as caught:
        load(path, {"HOME": str(tmp_path)})
    assert f"http.token_file: must name a file (mode 0600) with a secret token, because {listen}" in str(caught.value)
    assert 'listen = "127.0.0.1:9469"' in str(caught.value)
    path.write_text(f'[http]\nlisten = "{listen}"\ntoken_file = "{token_file}"')
    assert read_token(load(path, {"HOME": str(tmp_path)}).http, {}) == TOKEN.encode()


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (TOKEN, 0o640, "may be read by others"), (TOKEN, 0o604, "chmod 600"), ("short", 0o600, "one token of 16"),
        ("", 0o600, "one token"), ("two tokens in a file of one", 0o600, "one token"), ("x" * 513, 0o600, "one token"),
        (None, 0, "cannot be read: No such file"),
    ],
)  # fmt: skip
def test_a_token_that_is_none_or_no_secret_is_refused(
    content: str | None, mode: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=message) as caught:
        read_token(HttpConfig(token_file=str(path)), {})
    assert "http.token_file" in str(caught.value)
    assert not content or content not in str(caught.value)


def test_a_relative_token_file_lies_among_the_credentials(token_file: Path) -> None:
    config = HttpConfig(token_file="token")
    assert read_token(config, {"CREDENTIALS_DIRECTORY": str(token_file.parent)}) == TOKEN.encode()
    with pytest.raises(ConfigError, match="relative"):
        read_token(config, {})


def test_the_server_does_not_start_without_the_token_it_needs(tmp_path: Path) -> None:
    async def main() -> None:
        config = HttpConfig(listen="127.0.0.1:0", token_file=str(tmp_path / "gone"))
        server = HttpServer(config, dict(os.environ), renderer=Renderer, unhealthy=lambda: None)
        with pytest.raises(ConfigError):
            await server.start()
        await server.stop()

    asyncio.run(main())


def test_a_unix_socket_takes_any_host_and_a_port_does_not() -> None:
    assert Access(Listen("", 0, "/run/x.sock"), None, ()).refusal("/metrics", "evil.example", None) is None
    assert Access(Listen("127.0.0.1", 1), None, ()).refusal("/metrics", "evil.example", None) is not None
