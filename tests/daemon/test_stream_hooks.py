"""What a process said of its hooks, in words, bounded, and known again after a restart."""

from __future__ import annotations

from typing import Any

from rlhfd_daemon.frame import MAX_FRAME_BYTES
from rlhfd_daemon.runcontext import STREAMS_PER_EVENT
from rlhfd_daemon.runs import Peer, Run, Stream
from rlhfd_daemon.stream_hooks import MAX_HOOKS, MAX_TEXT, follow_hooks, summary_of


def failed(hook: str, **fields: object) -> dict[str, object]:
    return {"hook": hook, "error": "ValueError: oops", "failures": 1, "disabled": False, **fields}


def test_failures_and_missing_functions_are_told_apart_and_failures_come_first() -> None:
    known = follow_hooks({}, "attached", {"bound": ["a", "b"], "missing": ["x", "y"], "changed": {"y": "logs, step"}})
    known = follow_hooks(known, "hook_failed", failed("b"))
    known = follow_hooks(known, "hook_failed", failed("a", failures=3, disabled=True))
    assert known == {
        "a": "switched off after 3 failures in a row: ValueError: oops",
        "b": "failed: ValueError: oops",
        "x": "missing: no such function in the running version",
        "y": "changed: the running version's function has no parameter logs, step",
    }
    assert list(known)[2:] == ["x", "y"]
    assert follow_hooks(known, "hook_failed", failed("c", disabled=True))["c"].startswith(
        "switched off after a failure"
    )


def test_what_is_attached_later_replaces_what_was_missing_and_not_what_failed() -> None:
    known = {"a": "failed: ValueError: oops", "x": "missing: no such function in the running version"}
    assert follow_hooks(known, "attached", {"missing": ["z", "a"]}) == {
        "a": "failed: ValueError: oops",
        "z": "missing: no such function in the running version",
    }


def test_whatever_the_wire_brings_is_bounded() -> None:
    known: dict[str, str] = {}
    for number in range(200):
        known = follow_hooks(known, "hook_failed", failed(f"{number}" + "x" * 9000, error="y" * 9000))
    assert len(known) == MAX_HOOKS
    assert all(len(hook) <= MAX_TEXT and len(text) <= MAX_TEXT for hook, text in known.items())
    strange: Any = {"missing": {"a": 1}, "changed": [1], "bound": None}
    assert follow_hooks({}, "attached", strange) == {}
    assert len(follow_hooks({}, "hook_failed", {})) == 1
    assert len(str(summary_of(known))) * STREAMS_PER_EVENT < MAX_FRAME_BYTES


def test_a_restarted_daemon_knows_them_from_the_head_of_a_segment() -> None:
    stream = Stream("r", "b", "PPOTrainer", None, "s", 42, Peer())
    assert "hooks" not in stream.summary()
    stream.hooks = {"a": "failed: ValueError: oops"}
    again = Stream.restored(Run("r", "b", 0.0, 0.0), stream.summary())
    assert again.hooks == stream.hooks
