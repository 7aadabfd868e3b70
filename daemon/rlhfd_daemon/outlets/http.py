"""The daemon's web server: `GET /metrics` for Prometheus and `GET /healthz`; nothing that changes anything."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import structlog
from aiohttp import web

from rlhfd_daemon.config import HttpConfig
from rlhfd_daemon.outlets.access import Access, Listen, parse_listen, read_token
from rlhfd_daemon.outlets.connections import Connections

__all__ = ["HttpServer", "Renderer"]

FRESH_SECONDS = 1.0  # a page is rendered at most once in this time, whoever asks how often
MAX_LINE_BYTES = 4096
MAX_HEADER_BYTES = 8192
OPENMETRICS = "application/openmetrics-text"
log = structlog.get_logger()


class Renderer(Protocol):
    """Makes the page; see :class:`rlhfd_daemon.outlets.prometheus.Exposition`."""

    def gather(self) -> Any: ...

    def render(self, scrape: Any, accept: str = "") -> tuple[bytes, str]: ...


class _Rendered(NamedTuple):
    made: float
    body: bytes
    content_type: str
    gzipped: bytes | None


class HttpServer:
    """Serves where ``config`` says. ``renderer`` makes the page's maker when it is first asked for; ``unhealthy``
    returns why the daemon should be started again, or ``None``."""

    def __init__(
        self,
        config: HttpConfig,
        environ: Mapping[str, str],
        *,
        renderer: Callable[[], Renderer],
        unhealthy: Callable[[], str | None],
    ) -> None:
        self.address: str | None = None
        self.error: str | None = None
        self.requests = 0
        self.refused = 0
        self._config = config
        self._environ = environ
        self._make_renderer = renderer
        self._unhealthy = unhealthy
        self._renderer: Renderer | None = None
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._connections: Connections | None = None
        self._pages: dict[str, _Rendered] = {}

    async def start(self) -> str | None:
        """Begin to serve. Returns why it cannot, such as a port that is taken: the daemon does without.

        :raises ConfigError: the token cannot be used.
        """
        listen, token = parse_listen(self._config.listen), read_token(self._config, self._environ)
        if listen is None:
            return None
        self._access = Access(listen, token, self._config.allowed_hosts)
        self._lock = asyncio.Lock()
        application = web.Application(middlewares=[self._admit], client_max_size=1024)
        application.router.add_get("/metrics", self._get_metrics)
        application.router.add_get("/healthz", self._get_health)
        quiet = logging.getLogger("rlhfd.http")  # else whoever sends garbage writes tracebacks into our log
        quiet.setLevel(logging.CRITICAL)
        self._runner = web.AppRunner(
            application, access_log=None, logger=quiet, handle_signals=False, lingering_time=0.0,
            max_line_size=MAX_LINE_BYTES, max_field_size=MAX_HEADER_BYTES,
        )  # fmt: skip
        await self._runner.setup()
        try:
            self.address = await self._listen(listen)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            self.error = f"http.listen: {self._config.listen}: {reason}"
            await self.stop()
            log.error("no /metrics", listen=self._config.listen, error=self.error)
        return self.error

    async def stop(self) -> None:
        """Stop serving; bounded, safe to call twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
            if self._config.listen.startswith("/"):
                with contextlib.suppress(OSError):
                    _unlink_socket(self._config.listen)
        if self._connections is not None:
            self._connections.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self.address = None

    def status(self) -> dict[str, object]:
        """``address`` is where it is served, ``error`` why not."""
        return {
            "listen": self._config.listen,
            "address": self.address,
            "error": self.error,
            "requests_total": self.requests,
            "refused_total": self.refused,
        }

    async def _listen(self, listen: Listen) -> str:
        loop = asyncio.get_running_loop()
        assert self._runner is not None
        assert self._runner.server is not None
        self._connections = Connections(self._runner.server)
        if listen.path:
            _unlink_socket(listen.path)
            before = os.umask(0o177)
            try:
                self._server = await loop.create_unix_server(self._connections, listen.path)
            finally:
                os.umask(before)
            return listen.path
        self._server = await loop.create_server(self._connections, listen.host, listen.port)
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @web.middleware
    async def _admit(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        self.requests += 1
        headers = request.headers
        refusal = self._access.refusal(request.path, headers.get("Host"), headers.get("Authorization"))
        response: web.StreamResponse
        if refusal is None:
            try:
                response = await handler(request)
            except web.HTTPException as error:  # no such address, no such method
                response = web.Response(status=error.status, text=f"{error.reason}\n")
        else:
            self.refused += 1
            response = web.Response(status=refusal[0], text=f"{refusal[1]}\n")
            if refusal[0] == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.force_close()  # one request a connection: what a connection costs is bounded by its few seconds
        return response

    async def _get_health(self, request: web.Request) -> web.Response:
        reason = self._unhealthy()
        return web.Response(status=200 if reason is None else 503, text=f"{reason or 'ok'}\n")

    async def _get_metrics(self, request: web.Request) -> web.Response:
        accept = OPENMETRICS + "; version=1.0.0" if OPENMETRICS in request.headers.get("Accept", "") else ""
        wants_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
        async with self._lock:
            page = self._pages.get(accept)
            if page is None or time.monotonic() - page.made > FRESH_SECONDS or (wants_gzip and page.gzipped is None):
                page = self._pages[accept] = await self._render(accept, wants_gzip)
        headers = {"Content-Type": page.content_type, "Vary": "Accept, Accept-Encoding"}
        if wants_gzip and page.gzipped is not None:
            return web.Response(body=page.gzipped, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=page.body, headers=headers)

    async def _render(self, accept: str, wants_gzip: bool) -> _Rendered:
        if self._renderer is None:
            self._renderer = self._make_renderer()  # with its first use, as it brings prometheus_client into memory
        renderer, scrape = self._renderer, self._renderer.gather()

        def render() -> _Rendered:
            body, content_type = renderer.render(scrape, accept)
            return _Rendered(time.monotonic(), body, content_type, gzip.compress(body, 4) if wants_gzip else None)

        return await asyncio.get_running_loop().run_in_executor(None, render)


def _unlink_socket(path: str) -> None:
    """Remove a socket that nobody answers at. :raises OSError: somebody does, or it is no socket."""
    if not os.path.lexists(path) or not stat.S_ISSOCK(os.lstat(path).st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(98, "Address already in use")
