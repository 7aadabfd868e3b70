"""What the daemon records of judgements: one event for each kind, and a tensor that is frozen for long."""

from __future__ import annotations

import msgspec
import pytest

from rlhfd_daemon.checkpoints.health import KINDS
from rlhfd_daemon.checkpoints.judgement import Answer, Found, Judgement
from rlhfd_daemon.checkpoints.observed import FROZEN_IN_A_ROW, frozen_for_long, moved_beyond_usual, observations
from rlhfd_daemon.observation import Subject

ABOUT: dict[str, object] = {"path": "/c/global_step20", "role": "actor", "format": "deepspeed", "best": False}


def found(kind: str, *subjects: str) -> Found:
    return Found(kind=kind, count=len(subjects), subject=subjects[0], summary="is so", subjects=subjects)


def judgement(*issues: Found, step: int = 20, run_step: int | None = 20, role: str = "actor") -> Judgement:
    return Judgement(
        time=0.0, path="/c/global_step20", format="deepspeed", role=role, step=step, run_step=run_step,
        answer=Answer(score=0.4, bytes=5, issues=issues),
    )  # fmt: skip


def updated(role: str = "actor", **updates: float) -> Judgement:
    one = judgement(role=role)
    return msgspec.structs.replace(one, answer=Answer(score=1.0, updates=updates))


def events(one: Judgement, *earlier: Judgement) -> dict[str, object]:
    seen = observations(Subject("r", "b"), ABOUT, one, earlier)
    return {str(each.event): each.fields.get("finding") for each in seen if each.event is not None}


def test_each_kind_is_there_or_over() -> None:
    said = events(judgement(found("non_finite", "a", "b")))
    assert said["checkpoint_non_finite"] == "is so"
    assert {name for name in said if name.endswith("_over")} == {
        f"checkpoint_{kind}_over" for kind in KINDS if kind != "non_finite"
    }


def test_health_is_a_metric_of_the_role() -> None:
    (metrics,) = [one.metrics for one in observations(Subject("r", "b"), ABOUT, judgement(), ()) if one.metrics]
    assert metrics == {"checkpoint/actor/health": 0.4, "checkpoint/actor/size_bytes": 5.0}


def test_a_tensor_is_frozen_if_it_did_not_change_three_times_in_a_row() -> None:
    one = judgement(found("frozen", "a", "b"))
    assert FROZEN_IN_A_ROW == 3
    assert frozen_for_long([one, one]) is None
    always = frozen_for_long([one, judgement(found("frozen", "b")), one])
    assert always is not None
    assert always.subjects == ("b",)
    assert frozen_for_long([one, one, one, judgement()]) is None
    assert frozen_for_long([one, judgement(found("frozen", "c")), one]) is None


def test_of_frozen_tensors_only_checkpoints_of_the_same_role_count() -> None:
    one = judgement(found("frozen", "a"))
    other = judgement(found("frozen", "a"), role="critic")
    assert "checkpoint_frozen" not in events(one, one, other)
    assert "checkpoint_frozen" in events(one, one, other, one)


def test_a_step_beyond_the_run_s_is_an_issue() -> None:
    assert "the run is at step 20" in str(events(judgement(step=25))["checkpoint_step"])
    assert "checkpoint_step" not in events(judgement(step=25, run_step=None))


def test_a_tensor_that_moves_ten_times_further_than_it_used_to_is_named() -> None:
    usual = [updated(a=size, b=size) for size in (0.001, 0.002, 0.003)]
    assert moved_beyond_usual(usual, updated(a=0.02, b=0.02)) is None, "ten times the median, and not more"
    one = moved_beyond_usual(usual, updated(a=0.03, b=0.05, c=0.09))
    assert one is not None
    assert (one.kind, one.count, one.subject, one.subjects) == ("moved", 2, "b", ("b", "a"))
    assert one.summary == "moved by 0.05 of its norm, 25 times what is usual for it"
    assert moved_beyond_usual(usual[1:], updated(a=0.03)) is None, "two are not a history"
    assert moved_beyond_usual([updated(a=1e-7)] * 3, updated(a=5e-6)) is None, "nobody notices that"


def test_what_is_usual_is_of_the_same_role_and_lowers_the_health() -> None:
    usual, further = [updated(a=0.001, b=0.001)] * 3, updated(a=0.05, b=0.001)
    assert "checkpoint_moved" not in events(further, *[updated("critic", a=0.001, b=0.001)] * 3)
    assert "50 times what is usual" in str(events(further, *usual)["checkpoint_moved"])
    seen = observations(Subject("r", "b"), ABOUT, further, usual)
    (health,) = [one.metrics["checkpoint/actor/health"] for one in seen if one.metrics]
    kind = KINDS["moved"]
    assert health == pytest.approx(1 - (kind.least + (kind.most - kind.least) / 2))


def test_what_moved_by_more_than_a_tenth_and_what_moved_beyond_the_usual_are_one_issue() -> None:
    further = updated(a=0.05, b=0.5)
    further = msgspec.structs.replace(
        further, answer=msgspec.structs.replace(further.answer, score=0.8, issues=(found("moved", "b"),))
    )
    seen = list(observations(Subject("r", "b"), ABOUT, further, [updated(a=0.001, b=0.001)] * 3))
    (event,) = [one for one in seen if one.event == "checkpoint_moved"]
    assert (event.fields["count"], event.fields["subject"], event.fields["score"]) == (2, "b", 0.8)
