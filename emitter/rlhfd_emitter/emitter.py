"""The public face of the emitter: hands metrics and events to the daemon and never gets in the way."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Mapping

from rlhfd_emitter.endpoint import MAX_IPC_PATH_BYTES, default_endpoint, ipc_path
from rlhfd_emitter.log import warn
from rlhfd_emitter.requests import ALLOW_VARIABLE, Requests, allowed_in
from rlhfd_emitter.ring import DEFAULT_CAPACITY_BYTES, Entry, Ring

MAX_NAME = 128
MIN_CAPACITY_BYTES = 64 * 1024

_emitters: weakref.WeakSet[Emitter] = weakref.WeakSet()


class Emitter:
    """One stream of frames from this process to the daemon.

    ``run`` names the training run (default: ``RLHFD_RUN``, else ``default``), ``role`` what this process is in
    it (OpenRLHF's class names, ``PolicyModelActor`` and so on), ``rank`` its distributed rank (default:
    ``RANK``, else unknown), ``boot`` this launch of the run (default: ``RLHFD_BOOT``), ``capacity_bytes`` the
    memory for frames the daemon has not confirmed yet.

    No method raises, blocks on I/O or logs per call, whatever the arguments and whatever happened to the daemon;
    what cannot be sent is counted in :attr:`drops` and reported with the next frame. A wrong argument or a
    missing library turns the emitter off with one warning (:attr:`off_reason`). After a fork the child is a
    stream of its own. ``RLHFD_DISABLE=1`` turns every emitter off.
    """

    def __init__(
        self,
        run: str | None = None,
        role: str = "user",
        rank: int | None = None,
        *,
        boot: str | None = None,
        endpoint: str | None = None,
        capacity_bytes: int = DEFAULT_CAPACITY_BYTES,
    ) -> None:
        self.off_reason: str | None = None
        self._ring = Ring()
        self.requests = Requests((), lambda: None)
        self._closed = False
        try:
            self.run = _name("run", run or os.environ.get("RLHFD_RUN") or "default")
            self.role = _name("role", role)
            self.boot = _name("boot", boot or os.environ.get("RLHFD_BOOT") or f"pid{os.getpid()}")
            self.rank = _rank(rank)
            self.endpoint = _endpoint(endpoint)
            self._capacity_bytes = max(int(capacity_bytes), MIN_CAPACITY_BYTES)
            if os.environ.get("RLHFD_DISABLE", "") not in ("", "0"):
                self.off_reason = "RLHFD_DISABLE is set"
                return
            self._open()
            self._start_sender()
            _emitters.add(self)
        except Exception as error:  # noqa: BLE001 - the oath: a monitor that cannot start must not stop the training
            self.off_reason = f"{type(error).__name__}: {error}"
            warn("off", "rlhfd: the emitter is off for this process: %s", self.off_reason)

    def _open(self) -> None:
        """Begin a new stream. Imports here, not above: a missing or broken library is caught by the constructor."""
        from rlhfd_emitter import frame, sender

        identity = {"run": self.run, "boot": self.boot, "role": self.role, "rank": self.rank}
        self.stream = os.urandom(8).hex()
        self._seq = 0
        ring = self._ring = Ring(self._capacity_bytes)
        self._frame = frame
        self._encoder = frame.FrameEncoder(**identity, stream=self.stream, pid=os.getpid())  # type: ignore[arg-type]
        ping = frame.FrameEncoder(**identity, stream=self.stream, pid=os.getpid())  # type: ignore[arg-type]
        self.requests = Requests(allowed_in(os.environ.get(ALLOW_VARIABLE, "")), weakref.WeakMethod(self.event))
        self._sender = sender.Sender(ring, self.endpoint, lambda: ping.encode(_ping(ring)), self.requests.take)
        self._started = False
        self._start = threading.Lock()
        weakref.finalize(self, self._sender.stop).atexit = False

    def _start_sender(self) -> None:
        """Start the thread of this stream, once."""
        if self._start.acquire(blocking=False):
            self._started = True
            self._sender.start()

    def _after_fork(self) -> None:
        """The child's stream is its own; its thread starts with its first frame."""
        try:
            if not self._closed and self.off_reason is None:
                self._open()
        except Exception as error:  # noqa: BLE001 - the oath holds in a forked child too
            self.off_reason = f"after fork: {error}"

    @property
    def drops(self) -> Counter[str]:
        """What was left out so far, by ``<class>:<reason>``: events and metrics (frames), value (single metrics)."""
        with self._ring.lock:
            return Counter(self._ring.drops)

    @property
    def muted(self) -> bool:
        """True while nothing is sent: turned off, closed, or muted by the daemon's operator."""
        return self._closed or self.off_reason is not None or self._sender.muted

    def emit(self, step: int | None, metrics: Mapping[str, object]) -> None:
        """Hand over the numbers among ``metrics`` as measured at training step ``step``. Microseconds, no I/O."""
        if self._closed or self.off_reason is not None:
            return
        try:
            kept = self._frame.clean_metrics(metrics, self._count)
            if kept:
                tail = _tail("metrics", step)
                tail["metrics"] = kept
                self._put("metrics", tail)
        except Exception:  # noqa: BLE001 - the oath
            self._count("metrics:bad_call")

    def event(self, kind: str, **fields: object) -> None:
        """Hand over something that happened, for example ``phase_begin``; ``step`` among the fields is the
        training step. Events are the last to be dropped."""
        if self._closed or self.off_reason is not None:
            return
        try:
            tail = _tail("event", fields.pop("step", None))
            tail["event"] = _name("kind", kind)
            tail["fields"] = self._frame.clean_fields(fields)
            self._put("events", tail)
        except self._frame.FieldsTooLargeError:
            self._count("events:too_large")
        except Exception:  # noqa: BLE001 - the oath
            self._count("events:bad_call")

    def close(self, timeout: float = 2.0) -> None:
        """Flush for at most ``timeout`` seconds and end the stream. Safe to call twice, from any thread."""
        if self._closed or self.off_reason is not None:
            return
        self._finish(timeout)
        self._sender.join()

    def _finish(self, timeout: float | None = None) -> None:
        self.event("process_stop")
        self._closed = True
        self._sender.stop(timeout)

    def _put(self, drop_class: str, tail: dict[str, object]) -> None:
        """Number the frame whose changing part is ``tail`` and put it into the ring. The training thread's path."""
        if self._sender.muted:
            self._count(f"{drop_class}:muted")
            return
        ring = self._ring
        with ring.lock:
            tail["seq"] = self._seq + 1
            if ring.drops:
                tail["drops"] = dict(ring.drops)
            frame = self._encoder.encode(tail)
            if len(frame) > self._frame.MAX_FRAME_BYTES:
                self._count(f"{drop_class}:too_large")
                return
            self._seq += 1
            ring.push(Entry(self._seq, frame, drop_class == "events"))
        if not self._started:
            self._start_sender()

    def _count(self, reason: str) -> None:
        with self._ring.lock:
            self._ring.drops[reason] += 1


def _tail(kind: str, step: object) -> dict[str, object]:
    if step is not None and type(step) is not int:
        step = int(step)  # type: ignore[call-overload]
    return {"seq": 0, "time_ns": time.time_ns(), "mono_ns": time.monotonic_ns(), "kind": kind, "step": step}


def _ping(ring: Ring) -> dict[str, object]:
    """A sign of life, not recorded by the daemon; its answer carries the mute state."""
    with ring.lock:
        drops = dict(ring.drops)
    return {"seq": 0, "time_ns": time.time_ns(), "mono_ns": time.monotonic_ns(), "kind": "ping", "drops": drops}


def _after_fork_in_child() -> None:
    for emitter in list(_emitters):
        emitter._after_fork()


def _at_exit() -> None:
    from rlhfd_emitter.sender import live

    for emitter in list(_emitters):
        if not emitter.muted:
            emitter._finish()
    senders = list(live)  # those of emitters that were forgotten without close(), too
    for sender in senders:
        sender.stop()
    for sender in senders:
        sender.join()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)


def _name(what: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value.encode()) > MAX_NAME:
        raise ValueError(f"{what} must be a non-empty string of at most {MAX_NAME} bytes, not {type(value).__name__}")
    return value


def _rank(rank: object) -> int | None:
    if rank is None:
        text = os.environ.get("RANK", "")
        return int(text) if text.isdigit() else None
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
        raise ValueError("rank must be an integer of at least 0, or None if unknown")
    return rank


def _endpoint(endpoint: str | None) -> str:
    endpoint = endpoint or default_endpoint()
    path = ipc_path(endpoint)
    if path is None and not endpoint.startswith("tcp://"):
        raise ValueError(f"endpoint must start with ipc:// or tcp://, not {endpoint[:40]!r}")
    if path is not None and len(os.fsencode(path)) > MAX_IPC_PATH_BYTES:
        raise ValueError(f"endpoint path is longer than {MAX_IPC_PATH_BYTES} bytes")
    return endpoint
