"""Processes of one role without a rank are told apart, in the same way each time the frames are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.instances import Instances
from rlhfd_daemon.pipeline import Pipeline
from rlhfd_daemon.runs import DAEMON_ROLE
from rlhfd_daemon.sample import Sample
from wire import frame

ROLE = "RolloutRayActor"


def of(stream: str, **changes: Any) -> Frame:
    return frame(**{"stream": stream, "role": ROLE, "rank": None, **changes})


def noted(event: str, **fields: Any) -> Frame:
    return frame(role=DAEMON_ROLE, rank=None, stream="rlhfd", kind="event", event=event, fields=fields)


def ranks(instances: Instances, *frames: Frame) -> list[int | None]:
    return [instances.numbered(one).rank for one in frames]


def test_the_first_has_no_rank_and_those_beside_it_are_numbered() -> None:
    assert ranks(Instances(), of("a"), of("b"), of("a"), of("c"), of("b")) == [None, 1, None, 2, 1]


def test_a_known_rank_stays_and_numbers_nobody() -> None:
    assert ranks(Instances(), of("a", rank=0), of("b", rank=7), of("c")) == [0, 7, None]


def test_roles_runs_and_launches_are_numbered_apart() -> None:
    others = of("b", role="judge"), of("c", run="other"), of("d", boot="later")
    assert ranks(Instances(), of("a"), *others) == [None] * 4


def test_a_number_is_free_after_a_goodbye_and_the_goodbye_still_has_it() -> None:
    goodbye = of("b", kind="event", event="process_stop")
    assert ranks(Instances(), of("a"), of("b"), of("c"), goodbye, of("d")) == [None, 1, 2, 1, 1]


def test_a_number_is_free_after_the_daemon_noted_the_end() -> None:
    instances = Instances()
    assert ranks(instances, of("a"), of("b"), noted("stream_end", stream="a"), of("c"), of("b")) == [
        None, 1, None, None, 1,
    ]  # fmt: skip


def test_a_segment_says_at_its_head_who_lives_in_the_order_of_their_coming() -> None:
    head = noted("run_context", streams=[{"role": ROLE, "rank": None, "stream": name} for name in ("a", "b")])
    assert ranks(Instances(), head, of("b"), of("a"), of("c")) == [None, 1, None, 2]


def test_a_run_that_is_over_is_forgotten() -> None:
    instances = Instances()
    assert ranks(instances, of("a"), of("b")) == [None, 1]
    instances.forget("r", "b")
    assert ranks(instances, of("b"), of("a")) == [None, 1]


def test_the_daemon_itself_and_what_it_notes_of_nobody_stay_as_they_are() -> None:
    instances = Instances()
    strange = noted("stream_end", stream="unknown"), noted("run_context", context={}), noted("process_oom")
    assert [instances.numbered(one) for one in strange] == list(strange)


def test_two_engines_of_a_run_are_two_series_of_samples() -> None:
    taken: list[Sample] = []

    class Keep:
        def take(self, frame: Frame, samples: Sequence[Sample]) -> None:
            taken.extend(samples)

    pipeline = Pipeline((), Lifecycle(), (Keep(),))
    for number, stream in enumerate(("a", "b", "a", "b"), 1):
        pipeline.observe(of(stream, metrics={"rlhfd/engine/0/running": float(number)}), number, number)
    assert [(one.rank, one.value) for one in taken] == [(None, 1.0), (1, 2.0), (None, 3.0), (1, 4.0)]
