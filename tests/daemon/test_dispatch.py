"""Each series is watched by those whom it concerns, and silent runs make room for new ones."""

from __future__ import annotations

from collections.abc import Iterable

from rlhfd_alerts.finding import Finding
from rlhfd_daemon.analyzers.dispatch import IDLE_SECONDS, Dispatch, Watch
from rlhfd_daemon.sample import Happening, Sample


class Spy:
    """Watches the metrics it is told to, and remembers what it was asked."""

    def __init__(self, *wanted: str) -> None:
        self.wanted = wanted
        self.met: list[str] = []
        self.seen: list[tuple[str, str, float]] = []
        self.forgotten: list[tuple[str, str]] = []

    def watch(self, first: Sample) -> Watch | None:
        self.met.append(first.name)
        return self.observe if first.name in self.wanted else None

    def observe(self, sample: Sample) -> Iterable[Finding]:
        self.seen.append((sample.run, sample.name, sample.value))
        return ()

    def happened(self, event: Happening) -> Iterable[Finding]:
        return ()

    def tick(self, now: float) -> Iterable[Finding]:
        return ()

    def forget(self, run: str, boot: str) -> None:
        self.forgotten.append((run, boot))


def sample(
    name: str, value: float = 0.0, *, run: str = "r", boot: str = "b", rank: int = 0, time: float = 0.0
) -> Sample:
    return Sample(run, boot, "trainer", rank, 1, name, value, time, 1)


def test_an_analyzer_is_asked_once_a_series_and_gets_only_what_it_wants() -> None:
    one, other = Spy("a", "b"), Spy("b")
    dispatch = Dispatch((one, other))
    for value in (1.0, 2.0):
        dispatch.observe([sample("a", value), sample("b", value), sample("c", value)])
    assert one.met == other.met == ["a", "b", "c"]
    assert one.seen == [("r", "a", 1.0), ("r", "b", 1.0), ("r", "a", 2.0), ("r", "b", 2.0)]
    assert other.seen == [("r", "b", 1.0), ("r", "b", 2.0)]


def test_the_same_metric_of_another_rank_boot_or_run_is_another_series() -> None:
    spy = Spy("a")
    dispatch = Dispatch((spy,))
    for frame in ([sample("a"), sample("a", rank=1)], [sample("a", boot="c")], [sample("a", run="s")], [sample("a")]):
        dispatch.observe(frame)
    dispatch.observe([sample("a", rank=1), sample("a")])
    assert spy.met == ["a"] * 4
    assert len(spy.seen) == 7


def test_past_the_limit_new_series_are_refused_and_counted_and_known_ones_go_on() -> None:
    spy = Spy("a", "b", "c")
    dispatch = Dispatch((spy,), limit=2)
    for _ in range(2):
        dispatch.observe([sample("a"), sample("b"), sample("c")])
    assert [name for _, name, _ in spy.seen] == ["a", "b", "a", "b"]
    assert dispatch.refused == 2


def test_a_run_that_has_been_silent_for_long_makes_room_for_another() -> None:
    spy = Spy("a")
    dispatch = Dispatch((spy,), limit=1)
    dispatch.observe([sample("a", run="old")])
    dispatch.observe([sample("a", run="new", time=IDLE_SECONDS)])
    assert (spy.forgotten, dispatch.refused) == ([], 1)
    dispatch.observe([sample("a", run="new", time=IDLE_SECONDS + 61)])
    assert spy.forgotten == [("old", "b")]
    assert [run for run, _, _ in spy.seen] == ["old", "new"]


def test_the_analyzers_come_one_after_the_other_each_with_the_whole_frame() -> None:
    order: list[tuple[str, str]] = []

    class Named(Spy):
        def observe(self, sample: Sample) -> Iterable[Finding]:
            order.append((self.wanted[-1], sample.name))
            return ()

    dispatch = Dispatch((Named("a", "b", "first"), Named("a", "b", "second")))
    dispatch.observe([sample("b"), sample("a")])
    assert order == [("first", "b"), ("first", "a"), ("second", "b"), ("second", "a")]


def test_frames_of_ever_other_metrics_are_watched_as_well_and_do_not_fill_memory() -> None:
    spy = Spy("a")
    dispatch = Dispatch((spy,))
    for number in range(5000):
        dispatch.observe([sample("a"), sample(f"x{number % 50}"), *[sample("y")] * (number // 50)])
    assert len(spy.seen) == 5000
    assert len(dispatch._plans) <= 4096


def test_what_is_forgotten_is_met_anew() -> None:
    spy = Spy("a")
    dispatch = Dispatch((spy,))
    dispatch.observe([sample("a")])
    dispatch.forget("r", "b")
    dispatch.observe([sample("a")])
    assert spy.met == ["a", "a"]
