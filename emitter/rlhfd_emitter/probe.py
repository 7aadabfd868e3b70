"""Asks whether a daemon answers at an endpoint, as an emitter would: with a ping, which nobody records."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgpack
import zmq

from rlhfd_emitter.endpoint import MAX_IPC_PATH_BYTES, ipc_path
from rlhfd_emitter.frame import FrameEncoder

ANSWER_SECONDS = 1.0


@dataclass(frozen=True)
class Socket:
    """What is at ``endpoint``; ``reason`` says why it does not answer.

    ``absent``: nothing yet; ``silent``: a socket that gives no answer; ``forbidden``: not for this user;
    ``wrong``: no endpoint, or a file that is no socket.
    """

    endpoint: str
    state: Literal["answers", "absent", "silent", "forbidden", "wrong"]
    reason: str = ""


def look(endpoint: str, seconds: float = ANSWER_SECONDS) -> Socket:
    """What is at ``endpoint``, after at most ``seconds``."""
    path = ipc_path(endpoint)
    return (_look_at_file(endpoint, path) if path is not None else None) or ask(endpoint, seconds)


def _look_at_file(endpoint: str, path: str) -> Socket | None:
    """``None`` if it is a socket that this user may write to."""
    if len(os.fsencode(path)) > MAX_IPC_PATH_BYTES:
        return Socket(endpoint, "wrong", f"the path is longer than {MAX_IPC_PATH_BYTES} bytes")
    try:
        mode = os.stat(path).st_mode
    except PermissionError as error:
        return Socket(endpoint, "forbidden", f"no permission to look into its directory ({error.strerror})")
    except (OSError, ValueError) as error:
        code = getattr(error, "errno", None)
        absent = code in (errno.ENOENT, errno.ENOTDIR)
        return Socket(endpoint, "absent" if absent else "wrong", getattr(error, "strerror", None) or str(error))
    if not stat.S_ISSOCK(mode):
        return Socket(endpoint, "wrong", "not a socket")
    if not os.access(path, os.W_OK):
        return Socket(endpoint, "forbidden", "no permission to write to this socket")
    return None


def ask(endpoint: str, seconds: float, now: Callable[[], int] = time.time_ns) -> Socket:
    """Send a ping and wait for its ack (docs/wire.md)."""
    stream = os.urandom(8).hex()
    head = FrameEncoder(
        run="doctor", boot=f"pid{os.getpid()}", role="doctor", rank=None, stream=stream, pid=os.getpid()
    )
    ping = head.encode({"seq": 0, "time_ns": now(), "mono_ns": time.monotonic_ns(), "kind": "ping"})
    context = zmq.Context()
    try:
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(endpoint)
        socket.send(ping, zmq.NOBLOCK)
        answered = bool(socket.poll(int(seconds * 1000)))
        message = socket.recv_multipart()[-1] if answered else b""
    except zmq.ZMQError as error:
        return Socket(endpoint, "wrong", str(error))
    finally:
        context.destroy(linger=0)
    if not answered:
        return Socket(endpoint, "silent", f"nothing within {seconds:g} s")
    return _understood(endpoint, message, stream)


def _understood(endpoint: str, message: bytes, stream: str) -> Socket:
    try:
        fields = msgpack.unpackb(message)
    except (ValueError, msgpack.UnpackException):
        fields = None
    if not isinstance(fields, dict) or fields.get("stream") != stream:
        return Socket(endpoint, "wrong", "what answers there is no rlhfd daemon")
    refused = fields.get("refused")
    return Socket(endpoint, "silent", f"refused: {refused}") if refused else Socket(endpoint, "answers")
