"""The operator's door: HTTP with JSON on a unix socket next to the endpoint, for `rlhfd status` and `rlhfd mute`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from rlhfd_daemon.errors import ControlError

TIMEOUT_SECONDS = 5.0


class MuteRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /api/v1/mute``: all launches of ``run``."""

    run: str
    muted: bool


class ControlServer:
    """Serves ``GET /api/v1/status`` and ``POST /api/v1/mute`` on a socket that only its owner may open."""

    def __init__(
        self, path: Path, *, status: Callable[[], dict[str, object]], mute: Callable[[str, bool], int]
    ) -> None:
        self._path = path
        self._status = status
        self._mute = mute
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begin to serve. :raises ControlError: the socket cannot be made."""
        application = web.Application(client_max_size=64 * 1024)
        application.router.add_get("/api/v1/status", self._get_status)
        application.router.add_post("/api/v1/mute", self._post_mute)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        before = os.umask(0o177)
        try:
            if self._path.is_socket():
                self._path.unlink()
            await web.UnixSite(self._runner, str(self._path)).start()
        except OSError as error:
            raise ControlError(f"control.socket: {self._path}: {error.strerror or error}") from error
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Stop serving. Safe to call twice."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self._path.unlink(missing_ok=True)

    async def _get_status(self, request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._status()), content_type="application/json")

    async def _post_mute(self, request: web.Request) -> web.Response:
        try:
            wanted = msgspec.json.decode(await request.read(), type=MuteRequest)
        except msgspec.MsgspecError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response(
            {"run": wanted.run, "muted": wanted.muted, "streams": self._mute(wanted.run, wanted.muted)}
        )


async def _request(path: Path, method: str, url: str, body: object = None) -> dict[str, object]:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)), timeout=timeout) as session:
        data = None if body is None else msgspec.json.encode(body)
        async with session.request(method, f"http://rlhfd{url}", data=data) as response:
            answer: dict[str, object] = msgspec.json.decode(await response.read())
            if response.status >= 400:
                raise ControlError(f"the daemon answered {response.status}: {answer.get('error')}")
            return answer


def ask(path: Path, method: str, url: str, body: object = None) -> dict[str, object]:
    """One request to the daemon behind the control socket at ``path``.

    :raises ControlError: no daemon, no permission, no answer within 5 s, or a refusal.
    """
    try:
        return asyncio.run(_request(path, method, url, body))
    except aiohttp.ClientConnectorError as error:
        raise ControlError(f"no daemon answers at {path}: {error.os_error.strerror}; is it running?") from error
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError, msgspec.MsgspecError) as error:
        reason = str(error) or type(error).__name__
        raise ControlError(f"no daemon answers at {path}: {reason}; is it running?") from error
