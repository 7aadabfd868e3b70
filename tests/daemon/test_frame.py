"""What the daemon takes for a frame, and what it says about everything else."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlhfd_daemon.frame import MAX_FRAME_BYTES, MAX_METRICS, FrameError, Link, decode, decode_link
from rlhfd_emitter.frame import FrameEncoder, clean_fields, clean_metrics
from wire import ABSENT, fields_of, packed

HEAD = ("v", "run", "boot", "role", "rank", "stream", "pid")
WIRE = Path(__file__).parents[2] / "docs" / "wire.md"


def refused(payload: bytes, **limits: int) -> FrameError:
    with pytest.raises(FrameError) as caught:
        decode(payload, **limits)
    return caught.value


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1\r\n",
        packed()[:-1],
        packed() + b"\x00",
        b"\x81" * 100_000,
        b"\x91" * 5000 + b"\x01",
    ],
    ids=["empty", "reserved_byte", "http", "cut_short", "trailing", "deep_maps", "deep_arrays"],
)
def test_what_is_not_one_msgpack_map_is_refused(payload: bytes) -> None:
    assert refused(payload).reason in ("malformed", "schema")


@pytest.mark.parametrize("payload", [b"", b"\xc1", packed()[:-1], packed() + b"\x00"])
def test_broken_msgpack_is_malformed(payload: bytes) -> None:
    assert refused(payload).reason == "malformed"


@pytest.mark.parametrize("payload", [b"\x01", b"\xc0", msgpack.packb([1, 2]), msgpack.packb({}), msgpack.packb("v")])
def test_msgpack_that_is_no_frame_is_a_schema_error(payload: bytes) -> None:
    assert refused(payload).reason == "schema"


WRONG: list[tuple[str, Any]] = [
    *((key, ABSENT) for key in ("run", "boot", "role", "stream", "pid", "seq", "time_ns", "mono_ns", "kind")),
    ("run", ""), ("run", "x" * 129), ("run", 5), ("run", b"r"), ("boot", ""), ("role", None), ("stream", "x" * 65),
    ("pid", -1), ("seq", -1), ("seq", 1.5), ("seq", "1"), ("rank", -1), ("rank", "0"), ("step", 0.5), ("kind", "log"),
    ("metrics", []), ("metrics", None), ("metrics", {"loss": "1"}), ("metrics", {"loss": None}), ("metrics", {"": 1.0}),
    ("metrics", {"k" * 129: 1.0}), ("metrics", {f"m{index}": 1.0 for index in range(MAX_METRICS + 1)}),
    ("fields", []), ("drops", {"metrics:ring_full": -1}), ("drops", {"a": 0.5}), ("event", 5), ("event", ""),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_missing_or_wrong_field_is_a_schema_error_that_names_it(field: str, value: Any) -> None:
    error = refused(packed(**{field: value}))
    assert error.reason == "schema"
    assert f"`{field}`" in str(error) or f"$.{field}" in str(error)


def test_an_event_needs_its_name() -> None:
    error = refused(packed(5, kind="event"))
    assert (error.reason, error.stream, error.seq) == ("schema", "s1", 5)
    assert "event" in str(error)


def test_a_schema_error_says_which_frame_it_was_if_that_can_be_read() -> None:
    error = refused(packed(9, metrics={"loss": "high"}))
    assert (error.stream, error.seq) == ("s1", 9)
    assert refused(packed(9, stream=ABSENT)).stream == ""


@pytest.mark.parametrize("changes", [{}, {"metrics": "something new"}, {"kind": "future"}, {"time_ns": ABSENT}])
def test_another_wire_version_is_refused_by_name_whatever_else_is_in_it(changes: dict[str, Any]) -> None:
    error = refused(packed(31, v=2, **changes))
    assert (error.reason, error.stream, error.seq) == ("version", "s1", 31)
    assert "version 2" in str(error)


def padded(size: int) -> bytes:
    """A good frame of exactly ``size`` bytes."""
    empty = len(packed(kind="event", event="e", fields={"x": "y" * 70_000}))
    payload = packed(kind="event", event="e", fields={"x": "y" * (70_000 + size - empty)})
    assert len(payload) == size
    return payload


def test_the_size_limit_is_inclusive() -> None:
    decode(padded(MAX_FRAME_BYTES))
    decode(padded(MAX_FRAME_BYTES - 1))
    error = refused(padded(MAX_FRAME_BYTES + 1))
    assert error.reason == "too_large"
    assert str(MAX_FRAME_BYTES) in str(error)
    assert refused(packed(), max_bytes=len(packed()) - 1).reason == "too_large"
    decode(packed(), max_bytes=len(packed()))


def test_a_frame_that_is_too_large_is_named_so_that_its_sender_can_go_on() -> None:
    error = refused(packed(12), max_bytes=50)
    assert (error.stream, error.seq) == ("s1", 12)
    assert refused(b"\xc1" * 100, max_bytes=50).stream == ""


PLAIN: list[object] = [None, True, -3, 2**64 - 1, 1.5, "text", [1, [2, ["x"]]], {"a": {"b": [1]}}, {"a": {"b": {}}}]
NOT_PLAIN: list[object] = [
    b"bytes", [b"bytes"], {"a": b"x"}, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 0),
    {"a": msgpack.ExtType(1, b"")}, {"a": {"b": {"c": {}}}}, [[[[1]]]],
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN)
def test_plain_values_up_to_four_levels_are_kept(value: object) -> None:
    assert decode(packed(kind="event", event="e", fields={"x": value})).fields == {"x": value}


@pytest.mark.parametrize("value", NOT_PLAIN)
def test_deeper_and_non_plain_values_are_refused_by_name(value: object) -> None:
    error = refused(packed(3, kind="event", event="e", fields={"x": value}))
    assert (error.reason, error.stream, error.seq) == ("nesting", "s1", 3)


@pytest.mark.parametrize("inner", [{1: "x"}, {b"k": 1}, {(1, 2): 3}, {None: 0}])
def test_only_text_names_things(inner: dict[Any, Any]) -> None:
    assert refused(packed(kind="event", event="e", fields={"x": inner})).reason in ("nesting", "schema", "malformed")
    assert refused(packed(kind="event", event="e", fields=inner)).reason in ("schema", "malformed")


def test_nan_and_infinity_are_values() -> None:
    metrics = decode(packed(metrics={"a": math.nan, "b": math.inf, "c": -math.inf, "d": 3})).metrics
    assert math.isnan(metrics["a"])
    assert [metrics[key] for key in "bcd"] == [math.inf, -math.inf, 3.0]
    assert isinstance(metrics["d"], float)


def test_unknown_keys_are_left_alone_and_absent_ones_have_defaults() -> None:
    frame = decode(packed(colour="blue", nested={"a": [b"x"]}, rank=ABSENT, step=ABSENT))
    assert (frame.rank, frame.step, frame.event, frame.fields, frame.drops) == (None, None, None, {}, {})


REASONS = {"malformed", "schema", "version", "too_large", "nesting", "taken"}
almost = st.builds(lambda size, tail: packed()[:size] + tail, st.integers(0, len(packed())), st.binary(max_size=60))


def outcome(decoder: Callable[[bytes], object], payload: bytes) -> str:
    try:
        decoder(payload)
    except FrameError as error:
        return error.reason
    return "taken"


@settings(max_examples=400, deadline=None)
@example(b"\x82\xa1\x00\x00\xa3run\xa1\x80")
@given(st.one_of(st.binary(max_size=300), almost))
def test_no_bytes_raise_anything_but_a_frame_error(payload: bytes) -> None:
    assert {outcome(decode, payload), outcome(decode_link, payload)} <= REASONS


keys = st.one_of(st.text(max_size=5), st.integers(-5, 5), st.binary(max_size=3), st.none(), st.floats())
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=8), st.binary(max_size=8),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
    st.builds(lambda data: msgpack.ExtType(127, data), st.binary(max_size=12)),
)  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3))
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*fields_of(), "fields", "event", "drops"]), values, max_size=4))
def test_no_map_raises_anything_but_a_frame_error(changes: dict[str, Any]) -> None:
    payload = msgpack.packb({**fields_of(), **changes})
    for candidate in (payload, payload.replace(b"\xc7", b"\xd6"), payload.replace(b"\x7f", b"\xff")):
        assert outcome(decode, candidate) in REASONS


numbers = st.one_of(st.floats(), st.integers(-(2**70), 2**70), st.booleans())


@settings(max_examples=200, deadline=None)
@given(
    step=st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    metrics=st.dictionaries(st.text(min_size=1, max_size=30), numbers, max_size=20),
    rank=st.one_of(st.none(), st.integers(0, 5000)),
    fields=st.dictionaries(st.text(max_size=20), st.one_of(numbers, st.text(), st.lists(st.text()), st.binary())),
)
def test_what_the_emitter_encodes_the_daemon_decodes(
    step: int | None, metrics: dict[str, Any], rank: int | None, fields: dict[str, Any]
) -> None:
    encoder = FrameEncoder(run="r", boot="b", role="PolicyModelActor", rank=rank, stream="ab" * 8, pid=77)
    counted: list[str] = []
    kept = clean_metrics(metrics, counted.append)
    tail = {"seq": 3, "time_ns": 1, "mono_ns": 2, "step": step}
    frame = decode(encoder.encode({**tail, "kind": "metrics", "metrics": kept, "drops": {"value:bad_key": 2}}))
    assert (frame.rank, frame.step, frame.seq, frame.pid, frame.role) == (rank, step, 3, 77, "PolicyModelActor")
    assert len(kept) + len(counted) == len(metrics)
    assert {key: str(value) for key, value in frame.metrics.items()} == {k: str(v) for k, v in kept.items()}
    assert frame.drops == {"value:bad_key": 2}
    event = decode(encoder.encode({**tail, "kind": "event", "event": "e", "fields": clean_fields(fields)}))
    assert event.fields.keys() == clean_fields(fields).keys()


def test_a_link_is_two_integers_and_may_grow() -> None:
    assert decode_link(msgpack.packb([3, 2])) == Link(previous=3, acknowledged=2)
    for wrong in (b"", b"\x93", msgpack.packb([1]), msgpack.packb(["a", 1]), msgpack.packb({"previous": 1}), b"\xc1"):
        with pytest.raises(FrameError) as caught:
            decode_link(wrong)
        assert caught.value.reason == "malformed"


DOCUMENTED: dict[str, Any] = {
    "v": 1, "run": "ppo-1", "boot": "6f1c", "role": "PPOTrainer", "rank": None, "stream": "0123456789abcdef",
    "pid": 4242, "seq": 7, "time_ns": 1795429338223880961, "mono_ns": 1485882769177, "kind": "metrics", "step": 61,
    "metrics": {"train/kl": 0.25}, "drops": {"metrics:ring_full": 3},
}  # fmt: skip


def test_the_document_s_example_is_byte_for_byte_what_the_emitter_sends_and_the_daemon_reads() -> None:
    example = WIRE.read_text("utf-8").partition("## Example")[2]
    prose, block = re.split(r"```hex\n", example, maxsplit=1)
    payload = bytes.fromhex(block.partition("```")[0])
    head = {key: DOCUMENTED[key] for key in HEAD if key != "v"}
    assert FrameEncoder(**head).encode({key: DOCUMENTED[key] for key in DOCUMENTED if key not in HEAD}) == payload
    frame = decode(payload)
    assert {key: getattr(frame, key) for key in DOCUMENTED} == DOCUMENTED
    for key in ("run", "boot", "role", "stream", "pid", "seq", "time_ns", "mono_ns", "step"):
        assert re.search(rf"\b{DOCUMENTED[key]}\b", prose), f"{key} in the text differs from the bytes"
    link = re.search(r"The link `\[(\d+), (\d+)\]` before it is `([0-9a-f ]+)`", block)
    assert link
    assert decode_link(bytes.fromhex(link[3])) == (int(link[1]), int(link[2]))
