"""What is lost on the way is told: once, again when there is more, and not what was known before a restart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlhfd_daemon.frame import Frame, Link
from rlhfd_daemon.framelog import FrameLogStats
from rlhfd_daemon.losses import AGAIN_SECONDS, Losses
from rlhfd_daemon.observation import Observation
from rlhfd_daemon.runs import Peer, Runs, Stream
from wire import frame

FINE = FrameLogStats(
    segments=1, bytes=0, records=0, last_id=0, unrecorded_total=0, quarantined_total=0, corrupt_records_total=0,
    degraded=None,
)  # fmt: skip


class Node:
    def __init__(self) -> None:
        self.runs = Runs()
        self.stats = FINE
        self.losses = Losses(self.runs, lambda: self.stats)
        self.losses.check(0.0)

    def admit(self, seq: int, drops: dict[str, int], after: int | None = None) -> None:
        one: Frame = frame(seq, drops=drops)
        self.runs.admit(one, Peer(0, 1), 0.0, None if after is None else Link(after, after))

    def events(self, now: float) -> list[tuple[str | None, object]]:
        return [(one.event, one.fields.get("frames", one.fields.get("records"))) for one in self.losses.check(now)]


@pytest.fixture
def seen() -> Node:
    return Node()


def test_frames_that_found_no_room_are_told_once_and_again_when_there_are_more(seen: Node) -> None:
    seen.admit(1, {})
    assert seen.events(100.0) == []
    seen.admit(2, {"metrics:ring_full": 3})
    assert seen.events(101.0) == [("frames_lost", 3)]
    assert seen.events(500.0) == []
    seen.admit(3, {"metrics:ring_full": 4, "events:ring_full": 1})
    assert seen.events(501.0) == [("frames_lost", 2)]


def test_what_goes_on_being_lost_is_told_once_a_minute(seen: Node) -> None:
    seen.admit(1, {"metrics:ring_full": 1})
    assert seen.events(100.0) == [("frames_lost", 1)]
    seen.admit(2, {"metrics:ring_full": 5})
    assert seen.events(100.0 + AGAIN_SECONDS / 2) == []
    seen.admit(3, {"metrics:ring_full": 9})
    assert seen.events(100.0 + AGAIN_SECONDS) == [("frames_lost", 8)]


def test_what_was_muted_or_was_no_number_is_not_lost(seen: Node) -> None:
    seen.admit(1, {"metrics:muted": 9, "value:not_a_number": 2})
    assert seen.events(100.0) == []


def test_the_reasons_and_the_process_are_named(seen: Node) -> None:
    seen.admit(1, {"metrics:ring_full": 2, "metrics:muted": 1, "events:too_large": 1})
    (one,) = seen.losses.check(100.0)
    assert one.fields["reasons"] == "1 events:too_large, 2 metrics:ring_full"
    assert (one.subject.run, one.fields["role"]) == (frame(1).run, frame(1).role)


def test_after_a_restart_what_was_lost_before_is_not_told_anew() -> None:
    runs = Runs()
    runs.admit(frame(1, drops={"metrics:ring_full": 3}), Peer(0, 1), 0.0)
    losses = Losses(runs, lambda: FINE)
    assert losses.check(1.0) == []
    runs.admit(frame(2, drops={"metrics:ring_full": 4}), Peer(0, 1), 0.0)
    assert [one.fields["frames"] for one in losses.check(2.0)] == [1]


def test_a_stream_restored_from_the_run_s_context_knows_its_drops() -> None:
    runs = Runs()
    runs.admit(frame(1, drops={"metrics:ring_full": 3}), Peer(0, 1), 0.0)
    (run,), (stream,) = runs.runs.values(), runs.streams.values()
    assert Stream.restored(run, stream.summary()).drops == {"metrics:ring_full": 3}


def test_recording_that_stops_and_goes_on_is_told_once_each_with_what_is_missing(seen: Node) -> None:
    assert seen.losses.check(1.0) == []
    seen.stats = replace(FINE, degraded="No space left on device", unrecorded_total=2)
    (stopped,) = seen.losses.check(2.0)
    assert (stopped.event, stopped.fields["error"]) == ("recording_stopped", "No space left on device")
    assert seen.losses.check(3.0) == []
    seen.stats = replace(FINE, unrecorded_total=7)
    assert seen.events(4.0) == [("recording_resumed", 5)]
    assert seen.losses.check(5.0) == []


def test_streams_that_are_forgotten_are_forgotten_here_too(seen: Node) -> None:
    seen.admit(1, {"metrics:ring_full": 1})
    told: list[Observation] = seen.losses.check(100.0)
    assert len(told) == 1
    seen.runs.streams.clear()
    seen.losses.check(101.0)
    assert not seen.losses._told
    assert not seen.losses._told_at


def test_a_frame_that_found_no_room_and_its_missing_number_are_one_loss(seen: Node) -> None:
    seen.admit(1, {})
    (stream,) = seen.runs.streams.values()
    stream.drops, stream.gaps = {"metrics:ring_full": 5, "metrics:too_large": 1}, 4
    assert seen.events(100.0) == [("frames_lost", 6)]
    stream.gaps = 5
    assert seen.events(200.0) == []
    stream.gaps = 7
    (one,) = seen.losses.check(300.0)
    assert one.fields["frames"] == 2


def test_frames_that_never_came_without_a_reason_are_told(seen: Node) -> None:
    seen.admit(1, {})
    (stream,) = seen.runs.streams.values()
    stream.gaps = 3
    (one,) = seen.losses.check(100.0)
    assert (one.fields["frames"], one.fields["reasons"]) == (3, "3 never came")
