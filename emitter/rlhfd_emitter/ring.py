"""The byte-bounded memory between the training thread and the sender thread."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import NamedTuple

DEFAULT_CAPACITY_BYTES = 8 * 1024 * 1024
WINDOW_FRAMES = 256
# What Python itself spends on one stored frame: the bytes object's header, the tuple and a deque slot.
OVERHEAD_BYTES = 120


class Entry(NamedTuple):
    """One packed frame: ``seq`` is its sequence number in the stream, ``is_event`` its class."""

    seq: int
    frame: bytes
    is_event: bool

    @property
    def size(self) -> int:
        return len(self.frame) + OVERHEAD_BYTES


class Ring:
    """Frames not yet acknowledged, in sequence order, within ``capacity_bytes``.

    ``pending`` frames wait to be sent, ``in flight`` ones were handed to the socket and wait for their
    acknowledgement (at most 256 frames and a quarter of the capacity). When full, the oldest pending metrics
    go first and the oldest pending events last; each is counted in ``drops`` under ``<class>:ring_full``.
    All methods take ``lock``, which is reentrant: a signal handler may emit in the middle of an emit.
    """

    def __init__(self, capacity_bytes: int = DEFAULT_CAPACITY_BYTES) -> None:
        self.lock = threading.RLock()
        self.drops: Counter[str] = Counter()
        self.capacity_bytes = capacity_bytes
        self._metrics: deque[Entry] = deque()
        self._events: deque[Entry] = deque()
        self._in_flight: deque[Entry] = deque()
        self._bytes = 0
        self._in_flight_bytes = 0
        self._last_sent = 0
        self.acknowledged = 0

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return self.pending + self.in_flight

    @property
    def pending(self) -> int:
        """Number of frames that wait to be sent."""
        return len(self._metrics) + len(self._events)

    @property
    def in_flight(self) -> int:
        """Number of frames handed to the socket and not yet acknowledged."""
        return len(self._in_flight)

    def push(self, entry: Entry) -> None:
        """Append the newest frame, dropping old ones until all fit."""
        with self.lock:
            (self._events if entry.is_event else self._metrics).append(entry)
            self._bytes += len(entry.frame) + OVERHEAD_BYTES
            while self._bytes > self.capacity_bytes and self._drop_oldest():
                pass

    def _drop_oldest(self) -> bool:
        queue = self._metrics or self._events
        if not queue:
            return False
        dropped = queue.popleft()
        self._bytes -= dropped.size
        self.drops["events:ring_full" if dropped.is_event else "metrics:ring_full"] += 1
        return True

    def peek(self) -> Entry | None:
        """The next frame to send, or ``None`` when there is none or the window is full."""
        with self.lock:
            full = self._in_flight_bytes >= self.capacity_bytes // 4
            if len(self._in_flight) >= WINDOW_FRAMES or (full and self._in_flight):
                return None
            if not self._metrics or not self._events:
                queue = self._metrics or self._events
                return queue[0] if queue else None
            return min(self._metrics[0], self._events[0])

    def link(self) -> tuple[int, int]:
        """The sequence numbers of the frame sent before the next one, and of the last acknowledged frame.

        A lost connection takes unread frames with it; by the link the daemon sees that one is missing, while
        numbers that the ring itself dropped are never waited for.
        """
        with self.lock:
            return self._last_sent, self.acknowledged

    def sent(self, entry: Entry) -> None:
        """Move ``entry``, as returned by :meth:`peek`, to the frames in flight (if it was not dropped since)."""
        with self.lock:
            queue = self._events if entry.is_event else self._metrics
            if queue and queue[0] is entry:
                queue.popleft()
                self._in_flight.append(entry)
                self._in_flight_bytes += entry.size
                self._last_sent = entry.seq

    def acknowledge(self, seq: int) -> bool:
        """Forget every frame in flight up to ``seq``; true if that was any."""
        with self.lock:
            before = len(self._in_flight)
            while self._in_flight and self._in_flight[0].seq <= seq:
                entry = self._in_flight.popleft()
                self._bytes -= entry.size
                self._in_flight_bytes -= entry.size
                self.acknowledged = entry.seq
            return len(self._in_flight) < before

    def rewind(self) -> None:
        """Make every frame in flight pending again, in order, to be sent once more."""
        with self.lock:
            while self._in_flight:
                entry = self._in_flight.pop()
                (self._events if entry.is_event else self._metrics).appendleft(entry)
            self._in_flight_bytes = 0
            self._last_sent = self.acknowledged
