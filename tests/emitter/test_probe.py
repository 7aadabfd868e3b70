"""Whether a daemon answers: a real one, something else, something silent, nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from rlhfd_emitter.probe import look
from support import DaemonProcess


@pytest.fixture
def router(short_dir: Path) -> Iterator[tuple[str, zmq.Socket[bytes]]]:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as bound:
        bound.linger = 0
        bound.bind(endpoint := f"ipc://{short_dir}/other.sock")
        yield endpoint, bound


def test_a_daemon_answers_and_does_not_record_the_question(daemon: DaemonProcess) -> None:
    assert look(daemon.endpoint, 10).state == "answers"
    assert daemon.frames() == []


def test_what_never_answers_is_silent_after_the_given_time(router: tuple[str, zmq.Socket[bytes]]) -> None:
    assert look(router[0], 0.1).state == "silent"


def test_a_socket_that_nobody_serves_any_more_is_silent(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(short_dir / "stale.sock"))
    assert look(f"ipc://{short_dir}/stale.sock", 0.1).state == "silent"


ANSWERS = [
    (b"\xc1", "wrong"),
    (b"HTTP/1.1 400", "wrong"),
    (msgpack.packb([1]), "wrong"),
    (msgpack.packb({"v": 1, "stream": "another", "ack": 0, "mute": False}), "wrong"),
]


@pytest.mark.parametrize(("answer", "state"), ANSWERS)
def test_a_stranger_s_answer_is_no_daemon_s(router: tuple[str, zmq.Socket[bytes]], answer: bytes, state: str) -> None:
    endpoint, bound = router

    def reply() -> None:
        bound.send_multipart([bound.recv_multipart()[0], answer])

    thread = threading.Thread(target=reply)
    thread.start()
    found = look(endpoint, 10)
    thread.join(10)
    assert found.state == state


def test_a_refused_ping_says_why(router: tuple[str, zmq.Socket[bytes]]) -> None:
    endpoint, bound = router

    def refuse() -> None:
        identity, ping = bound.recv_multipart()
        stream = msgpack.unpackb(ping)["stream"]
        bound.send_multipart([identity, msgpack.packb({"v": 1, "stream": stream, "ack": 0, "refused": "version: 2"})])

    thread = threading.Thread(target=refuse)
    thread.start()
    found = look(endpoint, 10)
    thread.join(10)
    assert (found.state, found.reason) == ("silent", "refused: version: 2")


def test_a_path_that_is_not_there_is_absent(short_dir: Path) -> None:
    (short_dir / "file").touch()
    assert look(f"ipc://{short_dir}/nothing.sock").state == "absent"
    assert look(f"ipc://{short_dir}/no/directory.sock").state == "absent"
    assert look(f"ipc://{short_dir}/file/below.sock").state == "absent"


def test_what_is_no_socket_or_no_endpoint_is_wrong(short_dir: Path) -> None:
    (short_dir / "file").touch()
    assert look(f"ipc://{short_dir}/file").reason == "not a socket"
    assert "longer than" in look(f"ipc://{short_dir}/{'x' * 200}").reason
    for endpoint in ("nonsense", "ftp://host", "ipc://\0"):
        assert look(endpoint, 0.1).state == "wrong", endpoint


@pytest.mark.parametrize("closed", ["socket", "directory"])
def test_a_socket_for_others_is_forbidden(short_dir: Path, closed: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path := str(short_dir / "other.sock"))
        os.chmod(path, 0)
        os.chmod(short_dir, 0o755 if closed == "socket" else 0)
        # Root may open everything, so as root another user looks.
        program = (
            "import os, sys; from rlhfd_emitter.probe import look\n"
            "os.geteuid() or os.setuid(65534)\nprint(look(sys.argv[1]).state)"
        )
        result = subprocess.run(
            [sys.executable, "-c", program, f"ipc://{path}"], capture_output=True, text=True, timeout=60
        )
        os.chmod(short_dir, 0o700)
    assert (result.stdout, result.stderr) == ("forbidden\n", "")
