"""What Ray's process titles say, as seen with Ray 2.55."""

from __future__ import annotations

import pytest

from rlhfd_daemon.ray_titles import MAX_METHOD, MAX_NAME, Actor, Use, parse_title


@pytest.mark.parametrize(
    ("title", "actor", "found"),
    [
        ("ray::PolicyModelActor", None, ("PolicyModelActor", None)),
        ("ray::PolicyModelActor.fit", None, ("PolicyModelActor", "fit")),
        ("ray::PolicyModelActor", "PolicyModelActor", ("PolicyModelActor", None)),
        ("ray::PolicyModelActor.execute_batch", "PolicyModelActor", ("PolicyModelActor", "execute_batch")),
        ("ray::_QueueActor", None, ("_QueueActor", None)),
        ("ray::counter.add", None, ("counter", "add")),
        ("ray::mine", "Busy", ("Busy", "mine")),  # .options(name="mine")
        ("ray::step.3", "Busy", ("Busy", "step.3")),
        ("ray::a/b c.go\n", None, ("a_b_c", "go_")),
        ("ray::remote_rm_fn", None, None),  # a task
        ("ray::IDLE", None, None),
        ("ray::IDLE", "Busy", None),
        ("ray::IDLE_SpillWorker", None, None),
        ("ray::SPILL_SpillWorker", None, None),
        ("ray::RESTORE_RestoreWorker", None, None),
        ("ray::DashboardAgent", None, None),
        ("ray::RuntimeEnvAgent", None, None),
        ("ray::", "Busy", None),
        ("", "Busy", None),
        ("VLLM::EngineCore", None, None),
        ("/usr/bin/python\0default_worker.py", "Busy", None),
    ],
)
def test_a_title_tells_the_actor_and_what_it_does(
    title: str, actor: str | None, found: tuple[str, str | None] | None
) -> None:
    assert parse_title(title, actor) == found


def test_long_names_are_cut() -> None:
    found = parse_title("ray::" + "A" * 200 + "." + "m" * 200)
    assert found == ("A" * MAX_NAME, "m" * MAX_METHOD)
    assert parse_title("ray::" + "A" * 200, "A" * MAX_NAME) == ("A" * MAX_NAME, None)


def test_busy_is_the_share_of_samples_since_the_last_report() -> None:
    actor = Actor("A", 0.0)
    for at, method in enumerate([None, "fit", "fit", None]):
        actor.see(method, at)
    assert actor.take(3.5) == Use(0.5, 0.0)
    assert actor.take(3.5) is None
    actor.see("fit", 4.0)
    actor.see("fit", 5.0)
    assert actor.take(5.5) == Use(1.0, 1.5)
    actor.see("fit", 6.0)
    assert actor.take(6.5) == Use(1.0, 2.5)
    actor.see("other", 7.0)
    assert actor.take(7.0) == Use(1.0, 0.0)
