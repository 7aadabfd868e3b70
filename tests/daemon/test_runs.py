"""What is new, what was seen, what is waited for; and which runs there are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rlhfd_daemon import runs as runs_module
from rlhfd_daemon.frame import Link
from rlhfd_daemon.runs import OpenPhase, Peer, Runs
from rlhfd_emitter.ring import Entry, Ring
from wire import frame

PEER = Peer(1000, 42)


def admit(runs: Runs, seq: int, link: tuple[int, int] | None = None, now: float = 1.0, **changes: Any) -> bool:
    return runs.admit(frame(seq, **changes), PEER, now, None if link is None else Link(*link))


def test_every_sequence_number_is_taken_once() -> None:
    runs = Runs()
    assert [admit(runs, seq) for seq in (1, 2, 2, 1, 3, 3)] == [True, True, False, False, True, False]
    stream = runs.streams["s1"]
    assert (stream.frames, stream.duplicates, stream.gaps, stream.last_seq, runs.last_seq("s1")) == (3, 3, 0, 3, 3)
    assert runs.last_seq("unknown") == 0


def test_numbers_that_never_came_are_gaps() -> None:
    runs = Runs()
    assert all(admit(runs, seq) for seq in (3, 4, 10))
    assert runs.streams["s1"].gaps == 2 + 5


def test_a_ping_is_a_sign_of_life_and_not_a_frame() -> None:
    runs = Runs()
    assert admit(runs, 1, now=4.0)
    assert not admit(runs, 0, now=5.0, kind="ping", drops={"metrics:ring_full": 4})
    stream = runs.streams["s1"]
    assert (stream.last_seen, stream.frames, stream.duplicates, stream.drops) == (5.0, 1, 0, {"metrics:ring_full": 4})
    assert admit(runs, 2)


def test_drops_are_totals_that_never_shrink() -> None:
    runs = Runs()
    admit(runs, 1, drops={"a": 5})
    admit(runs, 2, drops={"a": 3, "b": 1})
    assert runs.streams["s1"].drops == {"a": 5, "b": 1}


def test_a_frame_ahead_of_a_lost_one_is_taken_only_after_it() -> None:
    runs = Runs()
    assert admit(runs, 1, (0, 0))
    assert not admit(runs, 3, (2, 0))
    assert (runs.last_seq("s1"), runs.streams["s1"].early) == (1, 1)
    assert admit(runs, 2, (1, 1))
    assert admit(runs, 3, (2, 1))
    assert runs.streams["s1"].gaps == 0


def test_what_the_ring_dropped_is_not_waited_for() -> None:
    runs = Runs()
    assert admit(runs, 1, (0, 0))
    assert admit(runs, 9, (1, 0))
    assert runs.streams["s1"].gaps == 7


def test_a_daemon_that_never_saw_the_stream_waits_for_what_is_not_acknowledged() -> None:
    runs = Runs()
    assert not admit(runs, 5, (4, 3))
    assert admit(runs, 4, (3, 3))
    assert admit(runs, 5, (4, 3))


def test_a_daemon_that_never_saw_the_stream_does_not_wait_for_what_another_took() -> None:
    runs = Runs()
    assert admit(runs, 5, (4, 4))
    assert runs.streams["s1"].gaps == 0


@pytest.mark.parametrize("changes", [{"run": "other"}, {"boot": "other"}, {"role": "other"}])
def test_a_stream_belongs_to_one_run_boot_and_role(changes: dict[str, str]) -> None:
    runs = Runs()
    assert not runs.foreign(frame(1), PEER)
    admit(runs, 1)
    assert not runs.foreign(frame(2), PEER)
    assert runs.foreign(frame(2, **changes), PEER)
    assert not runs.foreign(frame(1, stream="s2", **changes), PEER)


def test_a_stream_belongs_to_one_user_as_far_as_users_are_known() -> None:
    runs = Runs()
    admit(runs, 1)
    assert runs.foreign(frame(2), Peer(1001, 42))
    assert not runs.foreign(frame(2), Peer(1000, 43))
    assert not runs.foreign(frame(2), Peer())


def test_two_launches_of_one_run_are_kept_apart() -> None:
    runs = Runs()
    for boot, stream in (("b1", "s1"), ("b2", "s2"), ("b2", "s3")):
        assert admit(runs, 1, boot=boot, stream=stream, step=4)
    assert admit(runs, 2, boot="b1", stream="s1", step=9)
    assert {key: (run.step, sorted(run.streams)) for key, run in runs.runs.items()} == {
        ("r", "b1"): (9, ["s1"]), ("r", "b2"): (4, ["s2", "s3"]),
    }  # fmt: skip


def test_the_step_of_a_run_is_its_furthest_stream_s() -> None:
    runs = Runs()
    admit(runs, 1, stream="a", step=7)
    admit(runs, 1, stream="b", step=5)
    admit(runs, 2, stream="b", step=None)
    assert (runs.runs["r", "b"].step, runs.streams["b"].step) == (7, 5)


def phase(runs: Runs, seq: int, event: str, number: int, name: str = "generation", **fields: Any) -> None:
    admit(runs, seq, kind="event", event=event, fields={"phase": name, "id": number, **fields}, now=float(seq))


def test_phases_open_and_close_also_when_they_overlap() -> None:
    runs = Runs()
    phase(runs, 1, "phase_begin", 1)
    stream = runs.streams["s1"]
    assert stream.phases == {1: OpenPhase("generation", 1, 1, 1.0, 2_000)}
    phase(runs, 2, "phase_begin", 2, "reward")
    assert stream.phase == "reward"
    phase(runs, 3, "phase_end", 1, seconds=2.0)
    assert [one.phase for one in stream.phases.values()] == ["reward"]
    phase(runs, 4, "phase_end", 2, "reward", seconds=0.5)
    assert stream.phase is None
    assert {key: list(kept) for key, kept in runs.runs["r", "b"].durations.items()} == {
        ("trainer", "generation"): [2.0],
        ("trainer", "reward"): [0.5],
    }


def test_phases_that_never_end_and_names_without_end_are_bounded() -> None:
    runs = Runs()
    for number in range(1, 1000):
        phase(runs, 2 * number, "phase_begin", number, f"p{number}")
        phase(runs, 2 * number + 1, "phase_end", -number, f"p{number}", seconds=1.0)
    assert len(runs.streams["s1"].phases) <= 64
    assert len(runs.runs["r", "b"].durations) <= 256


def test_a_stream_ends_by_its_own_word_or_ours_and_lives_again_when_it_speaks() -> None:
    runs = Runs()
    admit(runs, 1, stream="a")
    admit(runs, 1, stream="b")
    admit(runs, 2, stream="a", kind="event", event="process_stop")
    assert runs.streams["a"].ended == "process_stop"
    assert runs.runs["r", "b"].live
    runs.end("b", "exited_without_bye")
    runs.end("a", "later")
    runs.end("nobody", "x")
    assert (runs.streams["a"].ended, runs.streams["b"].ended) == ("process_stop", "exited_without_bye")
    assert not runs.runs["r", "b"].live
    admit(runs, 3, stream="b")
    assert runs.runs["r", "b"].live


def test_what_the_daemon_noted_about_a_stream_is_understood_when_it_is_read_back() -> None:
    runs = Runs()
    admit(runs, 1, stream="a")
    fields = {"stream": "a", "reason": "exited_without_bye"}
    admit(runs, 1, stream="rlhfd-1", role="rlhfd", pid=0, kind="event", event="stream_end", fields=fields)
    assert runs.streams["a"].ended == "exited_without_bye"
    assert not runs.runs["r", "b"].live, "the daemon's own notes do not keep a run alive"


def test_the_trainer_is_known_from_run_start() -> None:
    runs = Runs()
    admit(runs, 1, kind="event", event="run_start", fields={"trainer": "PPOTrainer"})
    assert runs.runs["r", "b"].trainer == "PPOTrainer"


def test_at_the_cap_the_oldest_run_that_is_over_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "MAX_STREAMS", 3)
    runs = Runs()
    for index, name in enumerate(("old", "new", "alive")):
        assert admit(runs, 1, run=name, stream=name, now=float(index))
    assert not admit(runs, 1, run="more", stream="more"), "nothing is over: the newcomer is refused, not the living"
    runs.end("new", "x")
    runs.end("old", "x")
    assert admit(runs, 1, run="more", stream="more", now=9.0)
    assert set(runs.streams) == {"new", "alive", "more"}
    assert {run for run, _ in runs.runs} == {"new", "alive", "more"}


class LossyLink(RuleBasedStateMachine):
    """An emitter's ring, a channel that loses every frame from some point on until the emitter rewinds, and a
    daemon that restarts from its log, or without it."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring(20_000)
        self.runs = Runs()
        self.pushed = 0
        self.channel: list[tuple[int, tuple[int, int]]] = []
        self.taken: list[int] = []

    @rule(is_event=st.booleans(), size=st.sampled_from([10, 4000]))
    def emit(self, is_event: bool, size: int) -> None:
        self.pushed += 1
        self.ring.push(Entry(self.pushed, b"x" * size, is_event))

    @rule()
    def send(self) -> None:
        entry = self.ring.peek()
        if entry is not None:
            self.channel.append((entry.seq, self.ring.link()))
            self.ring.sent(entry)

    @rule(count=st.integers(1, 8))
    def deliver(self, count: int) -> None:
        for seq, link in self.channel[:count]:
            if admit(self.runs, seq, link):
                self.taken.append(seq)
        del self.channel[:count]

    @rule()
    def acknowledge(self) -> None:
        self.ring.acknowledge(self.runs.last_seq("s1"))

    @rule(kept=st.integers(0, 5))
    def lose_what_is_on_its_way_behind(self, kept: int) -> None:
        del self.channel[kept:]

    @rule()
    def resend(self) -> None:
        self.ring.rewind()

    @precondition(lambda self: self.taken)
    @rule()
    def restart_the_daemon(self) -> None:
        self.runs = Runs()
        self.channel.clear()
        for seq in self.taken:
            admit(self.runs, seq)

    @invariant()
    def taken_in_order_and_once(self) -> None:
        assert self.taken == sorted(set(self.taken))

    def teardown(self) -> None:
        for _ in range(10_000):
            if not len(self.ring):
                break
            self.ring.rewind()
            while self.ring.peek() is not None:
                self.send()
            self.deliver(len(self.channel))
            self.acknowledge()
        assert not len(self.ring)
        dropped = sum(self.ring.drops.values())
        assert len(self.taken) >= self.pushed - dropped, "lost without being counted"
        self.taken_in_order_and_once()


TestLossyLink = LossyLink.TestCase
TestLossyLink.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_a_ping_alone_makes_no_run() -> None:
    runs = Runs()
    assert not runs.admit(frame(0, kind="ping"), PEER, 1.0)
    assert not runs.runs
    assert not runs.streams
