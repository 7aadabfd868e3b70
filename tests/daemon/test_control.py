"""The operator's door: a unix socket that answers with JSON and is its owner's alone."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhfd_daemon.control import ControlServer, ask
from rlhfd_daemon.errors import ControlError


def served(path: Path, talk: Callable[[], object], status: Callable[[], dict[str, object]] = dict) -> object:
    """What ``talk`` returns, called in a thread while a server runs at ``path``."""

    async def main() -> object:
        server = ControlServer(path, status=status, mute=lambda run, muted: len(run) + muted)
        await server.start()
        try:
            return await asyncio.get_running_loop().run_in_executor(None, talk)
        finally:
            await server.stop()
            await server.stop()

    return asyncio.run(asyncio.wait_for(main(), 30))


def test_status_and_mute_are_answered(short_dir: Path) -> None:
    path = short_dir / "control.sock"
    assert served(path, lambda: ask(path, "GET", "/api/v1/status"), lambda: {"pid": 7}) == {"pid": 7}
    body = {"run": "ppo", "muted": True}
    assert served(path, lambda: ask(path, "POST", "/api/v1/mute", body)) == {"run": "ppo", "muted": True, "streams": 4}


@pytest.mark.parametrize(
    "body", [{"run": "ppo"}, {"run": 5, "muted": True}, {"run": "r", "muted": True, "x": 1}, [], "x"]
)
def test_a_wrong_request_is_refused_with_the_reason(body: object, short_dir: Path) -> None:
    path = short_dir / "control.sock"

    def talk() -> str:
        with pytest.raises(ControlError, match="400") as caught:
            ask(path, "POST", "/api/v1/mute", body)
        return str(caught.value)

    said = served(path, talk)
    assert isinstance(said, str)
    assert "None" not in said


def test_an_unknown_address_is_a_control_error(short_dir: Path) -> None:
    path = short_dir / "control.sock"

    def talk() -> None:
        with pytest.raises(ControlError):
            ask(path, "GET", "/api/v1/nothing")

    served(path, talk)


def test_the_socket_is_the_owner_s_alone_and_gone_afterwards(short_dir: Path) -> None:
    path = short_dir / "control.sock"
    before = os.umask(0)
    try:
        mode = served(path, lambda: stat.S_IMODE(path.stat().st_mode))
    finally:
        os.umask(before)
    assert mode == 0o600
    assert not path.exists()


def test_a_socket_left_by_a_crash_is_replaced_and_a_file_is_not(short_dir: Path) -> None:
    path = short_dir / "control.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert served(path, lambda: ask(path, "GET", "/api/v1/status")) == {}
    path.write_text("precious")
    with pytest.raises(ControlError, match=r"control\.sock"):
        served(path, lambda: None)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("path", ["nobody.sock", "no/such/dir.sock", "x" * 200])
def test_without_a_daemon_the_error_says_so(path: str, short_dir: Path) -> None:
    with pytest.raises(ControlError, match=r"no daemon answers at .*is it running"):
        ask(short_dir / path, "GET", "/api/v1/status")


def test_what_is_no_http_server_is_a_control_error(short_dir: Path) -> None:
    path = short_dir / "control.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        async def main() -> None:
            async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b"SSH-2.0-hello\r\n")
                await writer.drain()
                writer.close()

            server = await asyncio.start_unix_server(talk, sock=other.dup())
            async with server:
                await asyncio.get_running_loop().run_in_executor(None, refused)

        def refused() -> None:
            with pytest.raises(ControlError):
                ask(path, "GET", "/api/v1/status")

        asyncio.run(main())
