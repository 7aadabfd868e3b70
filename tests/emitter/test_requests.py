"""What the daemon asks of a process: answered at once, kept until it is carried out, bounded, never an exception."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_emitter.requests import MAX_AT_ONCE, MAX_SEEN, Request, Requests, allowed_in
from rlhfd_emitter.ring import Ring
from rlhfd_emitter.sender import Sender

STOP = {"id": "act_1", "action": "stop"}


class Answers(list[tuple[Any, ...]]):
    """What was answered: state, id, action, reason."""

    def event(self, kind: str, **fields: Any) -> None:
        assert kind == "action_answer"
        self.append((fields["state"], fields["id"], fields["action"], fields.get("reason", "")))


def requests(answers: Answers, *allowed: str, able: bool = True) -> Requests:
    made = Requests(allowed, lambda: answers.event)
    if able:
        made.able = {"checkpoint": "", "stop": ""}
    return made


def test_nothing_is_allowed_unless_it_is_named() -> None:
    assert allowed_in("") == allowed_in("all") == allowed_in("stopp,CHECKPOINT") == frozenset()
    assert allowed_in(" stop , checkpoint,") == {"stop", "checkpoint"}


def test_what_is_allowed_and_possible_waits_and_is_accepted_once_however_often_it_is_asked() -> None:
    answers = Answers()
    asked = requests(answers, "stop")
    for _ in range(3):
        asked.take([STOP])
    assert asked.waiting == (Request("act_1", "stop"),)
    assert answers == [("accepted", "act_1", "stop", "")]
    asked.settle(asked.waiting[0], "done", step=3)
    asked.settle(Request("act_1", "stop"), "done", step=4)
    asked.take([STOP])
    assert len(asked.waiting) == 0
    assert [state for state, *_ in answers] == ["accepted", "done"]


@pytest.mark.parametrize(
    ("action", "allowed", "able", "reason"),
    [
        ("stop", (), True, "the run was not started with rlhfd run --allow stop (RLHFD_ALLOW)"),
        ("stop", ("checkpoint",), True, "the run was not started with rlhfd run --allow stop (RLHFD_ALLOW)"),
        ("stop", ("stop",), False, "no hook of this process can do that"),
        ("rm -rf", ("stop",), True, "this rlhfd does not know it"),
    ],
)
def test_everything_else_is_refused_with_the_reason(
    action: str, allowed: tuple[str, ...], able: bool, reason: str
) -> None:
    answers = Answers()
    asked = requests(answers, *allowed, able=able)
    asked.take([{"id": "act_1", "action": action}])
    assert asked.waiting == ()
    assert answers == [("refused", "act_1", action, reason)]


def test_what_it_remembers_is_bounded() -> None:
    answers = Answers()
    asked = requests(answers)
    asked.take([{"id": f"{number}", "action": "stop"} for number in range(100)])
    assert len(answers) == MAX_AT_ONCE
    for number in range(3 * MAX_SEEN):
        asked.take([{"id": f"{number}", "action": "stop"}])
    assert len(asked._seen) == MAX_SEEN


def test_with_an_emitter_that_is_gone_nothing_is_said() -> None:
    asked = Requests(("stop",), lambda: None)
    asked.take([STOP])
    assert asked.waiting == ()


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "action", "x"]), inner),
    max_leaves=10,
)


@given(JUNK)
def test_whatever_an_answer_holds_the_sender_goes_on(junk: Any) -> None:
    answers = Answers()
    sender = Sender(Ring(), "ipc:///nowhere", lambda: b"", requests(answers, "stop").take)
    sender._control(msgpack.packb({"v": 1, "ack": 0, "mute": False, "requests": junk}))
    assert not sender.muted


def test_a_muted_emitter_takes_nothing_up_since_it_could_not_answer() -> None:
    answers = Answers()
    asked = requests(answers, "stop")
    sender = Sender(Ring(), "ipc:///nowhere", lambda: b"", asked.take)
    for mute in (True, False):
        assert len(asked.waiting) == 0
        sender._control(msgpack.packb({"v": 1, "ack": 0, "mute": mute, "requests": [STOP]}))
    assert asked.waiting == (Request("act_1", "stop"),)
