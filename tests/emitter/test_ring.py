"""The ring against a plain model: what is kept, in which order, what is dropped first, within how many bytes."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rlhfd_emitter.ring import OVERHEAD_BYTES, WINDOW_FRAMES, Entry, Ring

CAPACITY = 2000


def entry(seq: int, is_event: bool = False, size: int = 200) -> Entry:
    return Entry(seq, bytes(size - OVERHEAD_BYTES), is_event)


def filled(*kinds: str, capacity: int = CAPACITY, size: int = 200) -> Ring:
    """A ring with one frame for each of ``kinds``, ``m`` for metrics and ``e`` for an event."""
    ring = Ring(capacity)
    for seq, kind in enumerate(kinds, 1):
        ring.push(entry(seq, kind == "e", size))
    return ring


def send_all(ring: Ring) -> list[int]:
    """The sequence numbers that go out until the window is full."""
    out = []
    while (following := ring.peek()) is not None:
        ring.sent(following)
        out.append(following.seq)
    return out


class RingMachine(RuleBasedStateMachine):
    """Two lists of entries in the order of their numbers are the whole model."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring(CAPACITY)
        self.pending: list[Entry] = []
        self.in_flight: list[Entry] = []
        self.dropped = {"metrics:ring_full": 0, "events:ring_full": 0}
        self.seq = self.last_sent = self.acknowledged = 0

    def in_use(self) -> int:
        return sum(kept.size for kept in self.pending + self.in_flight)

    @rule(is_event=st.booleans(), size=st.integers(OVERHEAD_BYTES, CAPACITY + 300))
    def push(self, is_event: bool, size: int) -> None:
        self.seq += 1
        new = entry(self.seq, is_event, size)
        self.ring.push(new)
        self.pending.append(new)
        while self.in_use() > CAPACITY and self.pending:
            victim = next((kept for kept in self.pending if not kept.is_event), self.pending[0])
            self.pending.remove(victim)
            self.dropped["events:ring_full" if victim.is_event else "metrics:ring_full"] += 1

    @rule()
    def send_one(self) -> None:
        following = self.ring.peek()
        window_full = bool(self.in_flight) and sum(kept.size for kept in self.in_flight) >= CAPACITY // 4
        assert following == (self.pending[0] if self.pending and not window_full else None)
        if following is not None:
            self.ring.sent(following)
            self.in_flight.append(self.pending.pop(0))
            self.last_sent = following.seq

    @precondition(lambda self: self.pending)
    @rule()
    def a_dropped_frame_was_sent(self) -> None:
        """The sender had looked at a frame that was dropped before the sender said so."""
        self.ring.sent(entry(self.seq + 1))

    @rule(seq=st.integers(0, 60))
    def acknowledge(self, seq: int) -> None:
        confirmed = [kept for kept in self.in_flight if kept.seq <= seq]
        assert self.ring.acknowledge(seq) == bool(confirmed)
        self.in_flight = [kept for kept in self.in_flight if kept.seq > seq]
        if confirmed:
            self.acknowledged = confirmed[-1].seq

    @rule()
    def rewind(self) -> None:
        self.ring.rewind()
        self.pending = sorted(self.in_flight + self.pending)
        self.in_flight = []
        self.last_sent = self.acknowledged

    @invariant()
    def same_as_the_model(self) -> None:
        assert len(self.ring) == len(self.pending) + len(self.in_flight)
        assert self.ring.in_flight == len(self.in_flight)
        assert self.ring.size_bytes == self.in_use() <= CAPACITY
        assert {reason: self.ring.drops[reason] for reason in self.dropped} == self.dropped
        assert self.ring.link() == (self.last_sent, self.acknowledged)

    def teardown(self) -> None:
        """Whatever is left goes out once, in order."""
        self.ring.rewind()
        left = [kept.seq for kept in sorted(self.in_flight + self.pending)]
        out: list[int] = []
        while burst := send_all(self.ring):
            out += burst
            self.ring.acknowledge(burst[-1])
        assert out == left
        assert self.ring.size_bytes == 0


RingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRingMachine = RingMachine.TestCase


def test_frames_leave_in_the_order_of_their_numbers_whatever_their_class() -> None:
    assert send_all(filled("m", "e", "e", "m", "e", capacity=10_000)) == [1, 2, 3, 4, 5]


def test_metrics_are_dropped_before_events_and_the_oldest_first() -> None:
    ring = filled("e", "m", "m", "e", "m", capacity=1000)
    ring.push(entry(6))
    ring.push(entry(7, is_event=True))
    assert send_all(filled("e", "m")) == [1, 2]
    ring.capacity_bytes = 10_000  # only to let all of them out
    assert send_all(ring) == [1, 4, 5, 6, 7]
    assert ring.drops == {"metrics:ring_full": 2}


def test_events_are_dropped_when_nothing_else_is_left() -> None:
    ring = filled("e", "e", "e", "e", "e", "e", capacity=1000)
    assert ring.drops == {"events:ring_full": 1}
    first = ring.peek()
    assert first is not None
    assert first.seq == 2


def test_a_frame_in_flight_is_never_dropped() -> None:
    ring = filled("m", "m", capacity=1000, size=250)
    assert send_all(ring) == [1]  # a quarter of the capacity is under way
    for seq in range(3, 30):
        ring.push(entry(seq, is_event=True, size=250))
    ring.rewind()
    first = ring.peek()
    assert first is not None
    assert first.seq == 1


def test_a_frame_larger_than_the_ring_is_dropped_itself_and_counted() -> None:
    ring = filled("m", size=3000)
    assert len(ring) == ring.size_bytes == 0
    assert ring.drops == {"metrics:ring_full": 1}


def test_a_large_frame_is_sent_even_if_it_alone_fills_the_window() -> None:
    assert send_all(filled("e", "e", size=900)) == [1]


def test_the_window_also_counts_frames() -> None:
    assert len(send_all(filled(*"m" * 300, capacity=10**6))) == WINDOW_FRAMES


@pytest.mark.parametrize(("seq", "left"), [(0, 3), (2, 1), (3, 0), (99, 0)])
def test_an_acknowledgement_covers_everything_sent_before_it(seq: int, left: int) -> None:
    ring = filled("m", "e", "m", capacity=10_000)
    send_all(ring)
    assert ring.acknowledge(seq) == (left < 3)
    assert ring.in_flight == left


def test_an_acknowledgement_of_what_was_not_sent_is_ignored() -> None:
    ring = filled("m", "e")
    assert not ring.acknowledge(2)
    assert len(ring) == 2
    assert ring.link() == (0, 0)


def test_the_link_names_the_frame_sent_before_and_starts_over_after_a_rewind() -> None:
    ring = filled("m", "m", "m", "m", capacity=10_000)
    send_all(ring)
    ring.acknowledge(2)
    assert ring.link() == (4, 2)
    ring.rewind()
    assert ring.link() == (2, 2)
    assert send_all(ring) == [3, 4]
