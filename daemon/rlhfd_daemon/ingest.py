"""The ROUTER socket: takes messages from emitters in batches and tells each emitter what is safe with us."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog
import zmq

from rlhfd_daemon.errors import EndpointError
from rlhfd_daemon.frame import MAX_FRAME_BYTES, VERSION, Frame, FrameError, Link, decode, decode_link
from rlhfd_daemon.runs import Peer
from rlhfd_emitter.endpoint import MAX_IPC_PATH_BYTES, ipc_path

BATCH = 512
log = structlog.get_logger()


@dataclass(frozen=True)
class Received:
    """One good frame with its raw bytes, as they go to the frame log. ``received_ns`` is Unix time; ``link`` is
    ``None`` from senders that do not resend."""

    frame: Frame
    payload: bytes
    peer: Peer
    received_ns: int
    link: Link | None = None


@dataclass(frozen=True)
class Answer:
    """What the emitter of ``stream`` is told: everything up to ``ack`` is taken (or refused for good)."""

    stream: str
    ack: int
    mute: bool
    refused: str | None = None

    def encode(self) -> bytes:
        fields: dict[str, object] = {"v": VERSION, "stream": self.stream, "ack": self.ack, "mute": self.mute}
        if self.refused is not None:
            fields["refused"] = self.refused
        return msgspec.msgpack.encode(fields)


Sink = Callable[[list[Received]], None]
AnswerFor = Callable[[str], Answer]
Refuse = Callable[[str, int, "Link | None"], int]


class Ingest:
    """Decodes what arrives, hands good frames to ``sink`` and then acknowledges them with ``answer_for(stream)``;
    ``refuse(stream, seq, link)`` says up to where a stream is acknowledged when one of its frames is refused,
    ``foreign(frame, peer)`` whether a frame claims somebody else's stream.

    What is no frame is counted in ``rejected`` by reason and never reaches the sink.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        max_frame_bytes: int,
        allowed_uids: Collection[int],
        sink: Sink,
        answer_for: AnswerFor,
        refuse: Refuse = lambda _stream, seq, _link: seq,
        foreign: Callable[[Frame, Peer], bool] = lambda _frame, _peer: False,
    ) -> None:
        self.endpoint = endpoint
        self.received = 0
        self.rejected: Counter[str] = Counter()
        self._max_frame_bytes = max_frame_bytes
        self._allowed_uids = frozenset(allowed_uids)
        self._sink = sink
        self._answer_for = answer_for
        self._refuse = refuse
        self._foreign = foreign
        self._routes: dict[str, bytes] = {}
        self._context: zmq.Context[Any] | None = None
        self._socket: zmq.Socket[Any] | None = None
        self._lock: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Bind and begin to read on the running loop.

        :raises EndpointError: the endpoint is taken, foreign, too long or not permitted.
        """
        self._lock = claim_endpoint(self.endpoint)
        self._context = zmq.Context()
        socket: zmq.Socket[Any] = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        # Beyond this ZeroMQ ends the connection without a word, and the emitter would send the frame again for ever:
        # whatever an emitter may send has to get far enough to be refused by name.
        socket.setsockopt(zmq.MAXMSGSIZE, 2 * max(self._max_frame_bytes, MAX_FRAME_BYTES))
        socket.setsockopt(zmq.RCVHWM, 1000)
        socket.setsockopt(zmq.SNDHWM, 1000)
        self._socket = socket
        before = os.umask(0o117)
        try:
            socket.bind(self.endpoint)
        except zmq.ZMQError as error:
            self.stop()
            raise EndpointError(f"{self.endpoint}: cannot bind: {error}") from error
        finally:
            os.umask(before)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(int(socket.getsockopt(zmq.FD)), self._readable)
        self._readable()

    def stop(self) -> None:
        """Stop reading and give the endpoint back. Safe to call twice."""
        if self._socket is not None:
            if self._loop is not None:
                self._loop.remove_reader(int(self._socket.getsockopt(zmq.FD)))
            self._socket.close(0)
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None
        if self._lock is not None:
            path = ipc_path(self.endpoint)
            if path is not None:
                Path(path).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def tell(self, stream: str) -> None:
        """Send the stream's emitter its present answer unasked: the mute state has changed."""
        if stream in self._routes:
            self._answer(self._routes[stream], self._answer_for(stream))
            self._come_back()

    def forget(self, stream: str) -> None:
        """The stream is over."""
        self._routes.pop(stream, None)

    def _readable(self) -> None:
        """Take one batch. ZeroMQ's descriptor fires on edges only, and sending consumes edges, too: what is left
        after the answers is ours to come back for."""
        batch: list[Received] = []
        acks: dict[tuple[bytes, str], None] = {}
        for _ in range(BATCH):
            message = self._receive()
            if message is None:
                break
            self._take(message, batch, acks)
        if batch:
            self._sink(batch)
        for route, stream in acks:
            self._answer(route, self._answer_for(stream))
        self._come_back()

    def _come_back(self) -> None:
        if (
            self._socket is not None
            and self._loop is not None
            and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN
        ):
            self._loop.call_soon(self._readable)

    def _receive(self) -> list[zmq.Frame] | None:
        if self._socket is None:
            return None
        try:
            return self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None

    def _take(self, message: list[zmq.Frame], batch: list[Received], acks: dict[tuple[bytes, str], None]) -> None:
        self.received += 1
        route, payload = message[0].bytes, message[-1].bytes
        peer = peer_of(message[-1])
        if self._allowed_uids and peer.uid not in (-1, *self._allowed_uids):
            self._reject("peer_uid", f"uid {peer.uid} is not in ingest.allowed_uids")
            return
        link = None
        try:
            if len(message) > 3:
                raise FrameError("malformed", f"{len(message) - 1} parts instead of a link and a frame")
            link = decode_link(message[1].bytes) if len(message) == 3 else None
            frame = decode(payload, self._max_frame_bytes)
        except FrameError as error:
            self._reject(error.reason, str(error))
            if error.stream:
                ack = self._refuse(error.stream, error.seq, link)
                self._answer(route, Answer(error.stream, ack, mute=False, refused=f"{error.reason}: {error}"))
            return
        if self._foreign(frame, peer):
            self._reject("foreign_stream", f"stream {frame.stream} is not uid {peer.uid}'s, role {frame.role}")
            return
        self._routes[frame.stream] = route
        acks[route, frame.stream] = None
        batch.append(Received(frame, payload, peer, time.time_ns(), link))

    def _reject(self, reason: str, text: str) -> None:
        self.rejected[reason] += 1
        log.warning("frame rejected", reason=reason, detail=text)

    def _answer(self, route: bytes, answer: Answer) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send_multipart([route, answer.encode()], zmq.NOBLOCK)
        except zmq.ZMQError:
            return  # the emitter is gone or does not read; it asks again by resending


def peer_of(part: zmq.Frame) -> Peer:
    """The sender's uid and pid: libzmq puts the kernel's SO_PEERCRED into an ipc message's metadata."""
    try:
        _, uid, _, pid = str(part.get("Peer-Address")).split(":")
        return Peer(int(uid), int(pid))
    except (zmq.ZMQError, ValueError):
        return Peer()


def claim_endpoint(endpoint: str) -> int:
    """Make the socket's directory and take the endpoint's lock; returns the lock's descriptor.

    libzmq's bind deletes whatever file is at the path and takes a living daemon's endpoint without a word, so
    both are checked before.

    :raises EndpointError: with the path and what to do.
    """
    path = ipc_path(endpoint)
    if path is None:
        raise EndpointError(f"ingest.endpoint: {endpoint}: only ipc:// endpoints are supported")
    if len(os.fsencode(path)) > MAX_IPC_PATH_BYTES:
        raise EndpointError(f"ingest.endpoint: {path}: longer than {MAX_IPC_PATH_BYTES} bytes; choose a shorter path")
    try:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise EndpointError(f"ingest.endpoint: {path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _refuse_foreign(path)
    except BlockingIOError as error:
        os.close(lock)
        raise EndpointError(f"ingest.endpoint: {path}: another rlhfd daemon listens here") from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def _refuse_foreign(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise EndpointError(f"ingest.endpoint: {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(found.st_mode):
        raise EndpointError(f"ingest.endpoint: {path}: exists and is not a socket; remove it or choose another path")
    if found.st_uid != os.geteuid():
        raise EndpointError(f"ingest.endpoint: {path}: the socket belongs to uid {found.st_uid}, not to us")
