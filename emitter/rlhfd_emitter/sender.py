"""The sender thread: the only owner of the socket. DEALER to ROUTER, cumulative acks, resend when they stay out."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import msgpack
import zmq

from rlhfd_emitter.endpoint import ipc_path
from rlhfd_emitter.frame import MAX_FRAME_BYTES
from rlhfd_emitter.log import warn
from rlhfd_emitter.ring import Ring

# The caller never wakes this thread (no lock, no system call in emit). It looks at the ring itself, which is cheap, and
# after so many looks at the socket.
LOOK_SECONDS = 0.05
LOOKS = 2
SOCKET_SECONDS = LOOK_SECONDS * LOOKS
ACK_TIMEOUT_SECONDS = 1.0
MAX_ACK_TIMEOUT_SECONDS = 5.0
PING_SECONDS = 2.0
UNREACHABLE_SECONDS = 10.0
FLUSH_SECONDS = 2.0
# With a daemon that never answered there is nobody to flush to.
ABSENT_FLUSH_SECONDS = 0.1
# Plain numbers: each `&` and `|` of pyzmq's enumerations costs as much as the call it is for.
EVENTS, POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
LAST, MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK) | int(zmq.SNDMORE)

# Every sender whose thread runs; what is in it at exit gets its chance to flush.
live: set[Sender] = set()


class Sender:
    """Moves frames from one :class:`Ring` to the daemon until :meth:`stop`. Holds no reference to the Emitter,
    so that a forgotten Emitter can be collected."""

    def __init__(
        self, ring: Ring, endpoint: str, ping: Callable[[], bytes], asked: Callable[[object], None] | None = None
    ) -> None:
        self.ring = ring
        self.endpoint = endpoint
        self._asked = asked
        self.muted = False
        self._ping = ping
        self._deadline: float | None = None
        self._started = time.monotonic()
        self._answered = False
        self._ack_due = 0.0
        self._ack_timeout = ACK_TIMEOUT_SECONDS
        self._last_send = 0.0
        self._blocked = False
        self._socket_due = 0.0
        self._pack = msgpack.Packer().pack  # packb allocates a buffer of 256 KiB or more at each call
        self._thread = threading.Thread(target=self._run, name="rlhfd-sender", daemon=True)

    @property
    def started(self) -> bool:
        return self._thread.ident is not None

    def start(self) -> None:
        live.add(self)
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Ask the thread to flush what is left, for at most ``timeout`` seconds, and end. Does not wait."""
        if self._deadline is None:
            timeout = FLUSH_SECONDS if timeout is None else timeout
            absent = not self._answered and time.monotonic() - self._started > ACK_TIMEOUT_SECONDS
            self._deadline = time.monotonic() + (min(timeout, ABSENT_FLUSH_SECONDS) if absent else timeout)

    def join(self) -> None:
        """Wait for the end that :meth:`stop` asked for, and not much longer."""
        if self._deadline is not None and self.started and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, self._deadline - time.monotonic()) + 0.5)

    def _run(self) -> None:
        context = socket = None
        try:
            context = zmq.Context()
            socket = self._connect(context)
            while not self._finished():
                self._turn(socket)
        except Exception as error:  # noqa: BLE001 - a thread of ours must not print a traceback into a training run
            self.muted = True
            warn("sender", "rlhfd: the emitter is off for this process: %s", error)
        finally:
            if socket is not None:
                socket.close(0)
            if context is not None:
                context.term()
            live.discard(self)

    def _finished(self) -> bool:
        if self._deadline is None:
            return False
        return not len(self.ring) or time.monotonic() > self._deadline

    def _connect(self, context: zmq.Context[Any]) -> zmq.Socket[Any]:
        socket: zmq.Socket[Any] = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        # Only a finished connection takes frames: everything else stays in the ring, which counts bytes.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.SNDHWM, 64)
        socket.setsockopt(zmq.RCVHWM, 64)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        # Many ranks lose their daemon at the same moment: each comes back in its own rhythm.
        socket.setsockopt(zmq.RECONNECT_IVL, random.randint(80, 200))
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, random.randint(1000, 1600))
        socket.connect(self.endpoint)
        self._readable, self._either = zmq.Poller(), zmq.Poller()
        self._readable.register(socket, zmq.POLLIN)
        self._either.register(socket, zmq.POLLIN | zmq.POLLOUT)
        return socket

    def _turn(self, socket: zmq.Socket[Any]) -> None:
        answered = False
        if self._blocked:  # nobody is there, or reads: what is to be sent must not make this thread spin
            answered = bool(self._either.poll(int(1000 * SOCKET_SECONDS)))
        elif not self._rest():
            answered = bool(self._readable.poll(int(1000 * SOCKET_SECONDS)))
        now = time.monotonic()
        if answered or now >= self._socket_due:
            self._socket_due = now + SOCKET_SECONDS
            self._receive(socket)
        if self.ring.in_flight and now > self._ack_due:
            self.ring.rewind()
            self._ack_timeout = min(self._ack_timeout * 2, MAX_ACK_TIMEOUT_SECONDS)
        self._blocked = not self._send(socket, now)
        if now - self._last_send > PING_SECONDS:
            self._last_send = now
            self._try_send(socket, self._ping())
        if not self._answered and now - self._started > UNREACHABLE_SECONDS:
            self._answered = True  # said once; from here on exit may wait for a late daemon
            warn("unreachable", "rlhfd: no daemon at %s: %s", self.endpoint, self._why_unreachable())

    def _rest(self) -> bool:
        """Wait for something to send. False if what there is has to wait for acknowledgements, and at the end."""
        for _ in range(LOOKS):
            if self.ring.pending:
                return self.ring.peek() is not None
            if self._deadline is not None:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def _send(self, socket: zmq.Socket[Any], now: float) -> bool:
        """Send what is due; false if the socket does not take it all, because nobody is there or reads."""
        while (entry := self.ring.peek()) is not None:
            if not self.ring.in_flight:
                self._ack_due = now + self._ack_timeout
            link = self._pack(self.ring.link())
            if not self._try_send(socket, link, entry.frame):
                return False
            self.ring.sent(entry)
            self._last_send = now
        return True

    def _try_send(self, socket: zmq.Socket[Any], *parts: bytes) -> bool:
        *first, last = parts
        try:
            for part in first:
                socket.send(part, MORE)
            socket.send(last, LAST)
        except zmq.Again:
            return False
        return True

    def _receive(self, socket: zmq.Socket[Any]) -> None:
        while int(socket.getsockopt(EVENTS)) & POLLIN:
            self._control(socket.recv_multipart(LAST)[-1])

    def _control(self, message: bytes) -> None:
        try:
            fields = msgpack.unpackb(message)
            ack, mute = fields.get("ack"), fields.get("mute")
        except (ValueError, AttributeError, msgpack.UnpackException):
            warn("control", "rlhfd: a message from %s was not understood; is it a rlhfd daemon?", self.endpoint)
            return
        self._answered = True
        if isinstance(mute, bool):
            self.muted = mute
        if self._asked is not None and "requests" in fields and not self.muted:  # muted, it could not answer
            self._asked(fields["requests"])
        if fields.get("refused"):
            warn("refused", "rlhfd: the daemon refused a frame: %s", str(fields["refused"])[:200])
        if isinstance(ack, int) and self.ring.acknowledge(ack):
            self._ack_timeout = ACK_TIMEOUT_SECONDS
            self._ack_due = time.monotonic() + self._ack_timeout

    def _why_unreachable(self) -> str:
        path = ipc_path(self.endpoint)
        if path is None:
            return "no answer"
        try:
            os.stat(path)
        except OSError as error:
            return f"{errno.errorcode.get(error.errno or 0, '?')} {error.strerror}; is `rlhfd daemon` running?"
        return "no answer" if os.access(path, os.W_OK) else "no permission to write to this socket"


# The child of a fork has none of the parent's threads; waiting for them would only cost it time.
os.register_at_fork(after_in_child=live.clear)
