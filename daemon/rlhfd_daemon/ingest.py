"""The ROUTER socket: takes messages from emitters in batches and tells each emitter what is safe with us."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog
import zmq

from rlhfd_daemon.endpoint_claim import claim_endpoint
from rlhfd_daemon.errors import EndpointError
from rlhfd_daemon.frame import MAX_FRAME_BYTES, VERSION, Frame, FrameError, Link, decode, decode_link
from rlhfd_daemon.runs import Peer
from rlhfd_emitter.endpoint import ipc_path

BATCH = 512
# Many streams with few frames each: reading and answering them one by one would cost more than all the rest. What comes
# after a quiet time is read at once, what follows with its group.
GATHER_SECONDS = 0.02
ACK_SECONDS = 0.3  # an emitter waits for a second
MAX_PEERS = 20_000
NOBLOCK, SNDMORE = int(zmq.NOBLOCK), int(zmq.SNDMORE)  # an enum's `|` and every pass of one into ZeroMQ cost more
log = structlog.get_logger()


class Received(NamedTuple):
    """One good frame with its raw bytes, as they go to the frame log. ``received_ns`` is Unix time; ``link`` is
    ``None`` from senders that do not resend."""

    frame: Frame
    payload: bytes
    peer: Peer
    received_ns: int
    link: Link | None = None


class Answer(NamedTuple):
    """What the emitter of ``stream`` is told: everything up to ``ack`` is taken (or refused for good)."""

    stream: str
    ack: int
    mute: bool
    refused: str | None = None
    requests: tuple[dict[str, str], ...] = ()

    def encode(self) -> bytes:
        fields: dict[str, object] = {"v": VERSION, "stream": self.stream, "ack": self.ack, "mute": self.mute}
        if self.refused is not None:
            fields["refused"] = self.refused
        if self.requests:
            fields["requests"] = self.requests
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
        self._welcome = frozenset((-1, *allowed_uids)) if allowed_uids else None
        self._sink = sink
        self._answer_for = answer_for
        self._refuse = refuse
        self._foreign = foreign
        self._routes: dict[str, bytes] = {}
        self._peers: dict[bytes, Peer] = {}
        self._owed: dict[str, bytes] = {}
        self._turned_at = 0.0  # when something was last read, by the loop's clock
        self._reading = False  # whether the loop watches the socket's descriptor; else a turn is due
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
        self._watch()

    def stop(self) -> None:
        """Stop reading and give the endpoint back. Safe to call twice."""
        if self._socket is not None:
            self._stop_watching()
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
            self._watch()

    def forget(self, stream: str) -> None:
        """The stream is over."""
        self._routes.pop(stream, None)

    def _readable(self) -> None:
        """Something is there. Not so soon after the last turn: a moment later there is more."""
        self._stop_watching()
        if self._loop is not None:
            self._loop.call_at(self._turned_at + GATHER_SECONDS, self._turn)

    def _turn(self) -> None:
        """Take one batch; acknowledge at once what somebody waits for, the rest a little later together."""
        batch: list[Received] = []
        acks: dict[str, bytes] = {}
        count = 0
        while count < BATCH and self._receive(batch, acks):
            count += 1
        if count and self._loop is not None:  # a new connection, too, wakes the loop
            self._turned_at = self._loop.time()
        if batch:
            self._sink(batch)
        waiting = {one.frame.stream for one in batch if one.frame.kind == "ping" or one.frame.event == "process_stop"}
        self._acknowledge({stream: route for stream, route in acks.items() if stream in waiting})
        later = {stream: route for stream, route in acks.items() if stream not in waiting}
        if later and not self._owed and self._loop is not None:
            self._loop.call_later(ACK_SECONDS, self._settle)
        self._owed.update(later)
        if count == BATCH and self._loop is not None:
            self._loop.call_soon(self._turn)
        else:
            self._watch()

    def _settle(self) -> None:
        owed, self._owed = self._owed, {}
        self._acknowledge(owed)
        if self._reading:
            self._watch()

    def _acknowledge(self, acks: dict[str, bytes]) -> None:
        for stream, route in acks.items():
            self._answer(route, self._answer_for(stream))

    def _watch(self) -> None:
        """Wait for more. ZeroMQ's descriptor fires on edges only, and sending consumes edges, too: what arrived
        meanwhile is ours to come back for."""
        if self._socket is None or self._loop is None:
            return
        if not self._reading:
            self._reading = True
            self._loop.add_reader(int(self._socket.getsockopt(zmq.FD)), self._readable)
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._readable()

    def _stop_watching(self) -> None:
        if self._reading and self._socket is not None and self._loop is not None:
            self._loop.remove_reader(int(self._socket.getsockopt(zmq.FD)))
        self._reading = False

    def _receive(self, batch: list[Received], acks: dict[str, bytes]) -> bool:
        """Take one message. False if there is none."""
        if self._socket is None:
            return False
        try:
            part = self._socket.recv(NOBLOCK, copy=False)
        except zmq.Again:
            return False
        route = part.bytes
        peer = self._peers.get(route)
        parts: list[bytes] = []
        while part.more:  # a message's own flag: to ask the socket for it costs as much as to read the next part
            part = self._socket.recv(copy=False)
            if peer is None:
                peer = self._learn(route, part)
            parts.append(part.bytes)
        self._take(route, peer or Peer(), parts, batch, acks)
        return True

    def _learn(self, route: bytes, part: zmq.Frame) -> Peer:
        """Who sends by ``route``. Remembered only for routes that ZeroMQ made up, which start with a zero byte: one
        that a client chose for itself may be another client's next time."""
        peer = peer_of(part)
        if route.startswith(b"\0"):
            if len(self._peers) >= MAX_PEERS:
                self._peers.clear()
            self._peers[route] = peer
        return peer

    def _take(
        self, route: bytes, peer: Peer, parts: list[bytes], batch: list[Received], acks: dict[str, bytes]
    ) -> None:
        self.received += 1
        payload = parts[-1] if parts else b""
        if self._welcome is not None and peer.uid not in self._welcome:
            self._reject("peer_uid", f"uid {peer.uid} is not in ingest.allowed_uids")
            return
        link = None
        try:
            if len(parts) > 2:
                raise FrameError("malformed", f"{len(parts)} parts instead of a link and a frame")
            link = decode_link(parts[0]) if len(parts) == 2 else None
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
        acks[frame.stream] = route
        batch.append(Received(frame, payload, peer, time.time_ns(), link))

    def _reject(self, reason: str, text: str) -> None:
        self.rejected[reason] += 1
        log.warning("frame rejected", reason=reason, detail=text)

    def _answer(self, route: bytes, answer: Answer) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(route, NOBLOCK | SNDMORE)
            self._socket.send(answer.encode(), NOBLOCK)
        except zmq.ZMQError:
            return  # the emitter is gone or does not read; it asks again by resending


def peer_of(part: zmq.Frame) -> Peer:
    """The sender's uid and pid: libzmq puts the kernel's SO_PEERCRED into an ipc message's metadata."""
    try:
        _, uid, _, pid = str(part.get("Peer-Address")).split(":")
        return Peer(int(uid), int(pid))
    except (zmq.ZMQError, ValueError):
        return Peer()
