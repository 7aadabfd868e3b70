"""The operator's door: HTTP with JSON on a unix socket next to the endpoint, for `rlhfd status`, `mute` and `gpu`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Protocol

import aiohttp
import msgspec
from aiohttp import web

from rlhfd_daemon.errors import ControlError

TIMEOUT_SECONDS = 5.0


class MuteRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /api/v1/mute``: all launches of ``run``."""

    run: str
    muted: bool


class ReleaseRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /api/v1/gpu/release``: for so long, or until resumed."""

    seconds: Annotated[float, msgspec.Meta(gt=0, le=7 * 86400)] | None = None


class GpuControl(Protocol):
    """The part of the GPU poller that an operator commands; each answers with its state."""

    def describe(self) -> dict[str, object]: ...
    async def release(self, seconds: float | None) -> dict[str, object]: ...
    async def resume(self) -> dict[str, object]: ...


class RunReports(Protocol):
    """What is known of runs; ``None`` asks for all, a name for that run with all its details."""

    def runs(self, name: str | None) -> dict[str, object]: ...
    def topology(self, name: str | None) -> dict[str, object]: ...


class ControlServer:
    """Serves ``/api/v1/status``, ``mute``, ``gpu``, ``runs`` and ``topology`` on a socket that only its owner may
    open, and ``more``. Without ``gpu`` the GPUs are not watched."""

    def __init__(
        self,
        path: Path,
        *,
        status: Callable[[], dict[str, object]],
        mute: Callable[[str, bool], int],
        gpu: GpuControl | None = None,
        reports: RunReports | None = None,
        more: Iterable[web.RouteDef] = (),
    ) -> None:
        self._path = path
        self._status = status
        self._mute = mute
        self._gpu = gpu
        self._reports = reports
        self._more = tuple(more)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begin to serve. :raises ControlError: the socket cannot be made."""
        application = web.Application(client_max_size=64 * 1024)
        application.router.add_get("/api/v1/status", self._get_status)
        application.router.add_post("/api/v1/mute", self._post_mute)
        application.router.add_get("/api/v1/gpu", self._gpu_request)
        application.router.add_post("/api/v1/gpu/{verb:release|resume}", self._gpu_request)
        if self._reports is not None:
            application.router.add_get("/api/v1/runs", self._answer(self._reports.runs))
            application.router.add_get("/api/v1/topology", self._answer(self._reports.topology))
        application.router.add_routes(self._more)
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

    def _answer(self, report: Callable[[str | None], dict[str, object]]) -> Callable[[web.Request], Any]:
        async def get(request: web.Request) -> web.Response:
            answer = report(request.query.get("run"))
            return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

        return get

    async def _gpu_request(self, request: web.Request) -> web.Response:
        if self._gpu is None:
            return web.json_response({"error": "pollers.gpu.enabled is false"}, status=409)
        verb = request.match_info.get("verb")
        try:
            if verb == "release":
                wanted = msgspec.json.decode(await request.read(), type=ReleaseRequest)
                answer = await self._gpu.release(wanted.seconds)
            else:
                answer = await self._gpu.resume() if verb == "resume" else self._gpu.describe()
        except msgspec.MsgspecError as error:
            return web.json_response({"error": str(error)}, status=400)
        except OSError as error:
            return web.json_response({"error": f"cannot be remembered: {error}"}, status=500)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")


async def _request(path: Path, method: str, url: str, body: object, seconds: float) -> dict[str, object]:
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)), timeout=timeout) as session:
        data = None if body is None else msgspec.json.encode(body)
        async with session.request(method, f"http://rlhfd{url}", data=data) as response:
            answer: dict[str, object] = msgspec.json.decode(await response.read())
            if response.status >= 400:
                raise ControlError(f"the daemon answered {response.status}: {answer.get('error')}")
            return answer


def ask(
    path: Path, method: str, url: str, body: object = None, *, seconds: float = TIMEOUT_SECONDS
) -> dict[str, object]:
    """One request to the daemon behind the control socket at ``path``.

    :raises ControlError: no daemon, no permission, no answer within ``seconds``, or a refusal.
    """
    try:
        return asyncio.run(_request(path, method, url, body, seconds))
    except aiohttp.ClientConnectorError as error:
        raise ControlError(f"no daemon answers at {path}: {error.os_error.strerror}; is it running?") from error
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError, msgspec.MsgspecError) as error:
        reason = str(error) or type(error).__name__
        raise ControlError(f"no daemon answers at {path}: {reason}; is it running?") from error
