"""What may enter a frame, and the bytes that come out; the daemon's decoder judges."""

from __future__ import annotations

import enum
import math
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhfd_daemon.frame import decode
from rlhfd_emitter.frame import (
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_KEY_BYTES,
    MAX_METRICS,
    MAX_TEXT,
    FieldsTooLargeError,
    FrameEncoder,
    clean_fields,
    clean_metrics,
)

HEAD: dict[str, Any] = {"run": "r", "boot": "b", "role": "PPOTrainer", "rank": None, "stream": "s", "pid": 7}
TAIL: dict[str, Any] = {"seq": 1, "time_ns": 2, "mono_ns": 3, "kind": "metrics", "step": 4}


class Tensor:
    """Like a one-element torch tensor."""

    def __init__(self, value: float, device: str) -> None:
        self.value = value
        self.device = type("device", (), {"type": device})()

    def __float__(self) -> float:
        assert self.device.type == "cpu"
        return self.value


class Refusing:
    def __float__(self) -> float:
        raise RuntimeError("a tensor of many elements")

    __str__ = __float__  # type: ignore[assignment]


class Level(enum.IntEnum):
    HIGH = 3


def cleaned(metrics: Any) -> tuple[dict[str, float], dict[str, int]]:
    """What is kept of ``metrics``, and what was counted."""
    counted: Counter[str] = Counter()
    return clean_metrics(metrics, lambda reason: counted.update([reason])), dict(counted)


METRICS = [
    ({"a": 1.5, "b": 2}, {"a": 1.5, "b": 2.0}, {}),
    ({"a": True, "level": Level.HIGH}, {"a": 1.0, "level": 3.0}, {}),
    ({"a": None}, {}, {}),
    ({"a": np.float32(0.5), "b": np.int64(3), "c": np.array(2.0)}, {"a": 0.5, "b": 3.0, "c": 2.0}, {}),
    ({"a": np.zeros(3)}, {}, {"value:not_a_number": 1}),
    ({"a": Tensor(2.0, "cpu"), "b": Tensor(2.0, "cuda")}, {"a": 2.0}, {"value:not_a_number": 1}),
    ({"a": "1.0", "b": b"1", "c": [1.0], "d": 1j, "e": Refusing()}, {}, {"value:not_a_number": 5}),
    ({"a": 10**400, "b": 10**20}, {"b": 1e20}, {"value:not_a_number": 1}),
    ({"a": math.inf, "b": -math.inf}, {"a": math.inf, "b": -math.inf}, {}),
    ({1: 1.0, None: 1.0, "ok": 1.0}, {"ok": 1.0}, {"value:bad_key": 2}),
    ({"": 1.0, "ok": 1.0}, {"ok": 1.0}, {"value:bad_key": 1}),
    ({"k" * MAX_KEY_BYTES: 1.0, "k" * (MAX_KEY_BYTES + 1): 1.0}, {"k" * MAX_KEY_BYTES: 1.0}, {"value:bad_key": 1}),
    ({"é" * 64: 1.0, "é" * 65: 1.0}, {"é" * 64: 1.0}, {"value:bad_key": 1}),
    ({"\ud800": 1.0, "ok": 1.0}, {"ok": 1.0}, {"value:bad_key": 1}),
    (OrderedDict(a=1.0), {"a": 1.0}, {}),
    ({}, {}, {}),
]


@pytest.mark.parametrize(("metrics", "kept", "counted"), METRICS)
def test_metrics_keep_the_numbers_and_count_the_rest_by_reason(
    metrics: Any, kept: dict[str, float], counted: dict[str, int]
) -> None:
    assert cleaned(metrics) == (kept, counted)


def test_nan_is_a_number_since_it_is_what_an_analyzer_waits_for() -> None:
    kept, counted = cleaned({"loss": math.nan, "n": np.float64("nan")})
    assert all(map(math.isnan, kept.values()))
    assert (len(kept), counted) == (2, {})


def test_the_first_metrics_stay_when_there_are_too_many() -> None:
    kept, counted = cleaned({f"m{index}": index * 1.0 for index in range(MAX_METRICS + 3)})
    assert list(kept) == [f"m{index}" for index in range(MAX_METRICS)]
    assert counted == {"value:too_many_metrics": 3}


def test_the_numbers_are_plain_floats_whatever_they_were() -> None:
    kept, _ = cleaned({"a": np.float64(1.0), "b": True, "c": Level.HIGH, "d": 1})
    assert {type(value) for value in kept.values()} == {float}


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(10**308, 10**330), st.floats(), st.text(), st.binary(),
    st.complex_numbers(), st.builds(Refusing), st.sampled_from([Level.HIGH, np.float16(1.0), np.array(1), print]),
)  # fmt: skip
text = st.text(st.characters(exclude_categories=()))  # lone surrogates, too
metric_maps = st.dictionaries(st.one_of(text, text.map(lambda key: key * 50), st.integers()), anything, max_size=8)
float_maps = st.dictionaries(text, st.floats(), max_size=8)


@settings(max_examples=100, deadline=None)
@given(metrics=st.one_of(metric_maps, float_maps))
def test_cleaned_metrics_are_always_accepted_by_the_daemon_and_nothing_vanishes_uncounted(metrics: Any) -> None:
    kept, counted = cleaned(metrics)
    absent = sum(value is None for value in metrics.values())
    assert len(kept) + sum(counted.values()) + absent == len(metrics)
    frame = decode(FrameEncoder(**HEAD).encode({**TAIL, "metrics": kept}))
    assert repr(frame.metrics) == repr(kept)


FIELDS = [
    (None, None),
    (True, True),
    (-(2**63), -(2**63)),
    (2**63, float(2**63)),
    (10**400, "<int>"),
    ("x" * (MAX_TEXT + 1), "x" * MAX_TEXT + "…"),
    ("a\ud800b", "a?b"),
    ((1, 2), [1, 2]),
    ({3}, [3]),
    ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
    ({"k" * 300: 1}, {"k" * MAX_KEY_BYTES: 1}),
    ({"a\ud800": 1}, {"a?": 1}),
    (b"raw", "<bytes>"),
    (Refusing(), "<Refusing>"),
    ([Refusing()], ["<Refusing>"]),
    (list(range(MAX_ITEMS + 1)), list(range(MAX_ITEMS))),
    ([[[[1]]]], [[["<list>"]]]),
    ({"a": {"b": {"c": {"d": 1}}}}, {"a": {"b": {"c": "<dict>"}}}),
    ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 1}}}),
]


@pytest.mark.parametrize(("value", "expected"), FIELDS)
def test_fields_are_cut_to_plain_values_within_the_limits(value: Any, expected: Any) -> None:
    assert clean_fields(value) == expected


def test_a_cycle_ends_at_the_depth_limit() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    assert clean_fields(loop) == {"self": {"self": {"self": "<dict>"}}}


nested = st.recursive(
    st.one_of(anything, text),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner),
        st.dictionaries(st.one_of(text, st.integers()), inner, max_size=4),
    ),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(fields=st.dictionaries(text, nested, max_size=5))
def test_cleaned_fields_are_always_accepted_by_the_daemon(fields: dict[str, Any]) -> None:
    kept = clean_fields(fields)
    assert depth_of(kept) <= MAX_DEPTH
    frame = decode(FrameEncoder(**HEAD).encode({**TAIL, "kind": "event", "event": "e", "fields": kept}))
    assert repr(frame.fields) == repr(msgpack.unpackb(msgpack.packb(kept)))


def depth_of(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth_of, inner), default=0) if isinstance(value, (dict, list)) else 0


@settings(deadline=None)
@given(
    head=st.fixed_dictionaries({
        "run": st.text(), "boot": st.text(), "role": st.text(), "rank": st.none() | st.integers(0, 2**31),
        "stream": st.text(), "pid": st.integers(0, 2**31),
    }),
    tail=st.dictionaries(
        st.text(), st.integers(-5, 2**63) | st.dictionaries(st.text(), st.floats(), max_size=20), max_size=8
    ),
)  # fmt: skip
def test_a_frame_is_one_map_of_the_stream_s_head_and_the_tail(head: dict[str, Any], tail: dict[str, Any]) -> None:
    tail = {f"tail {key}": value for key, value in tail.items()}
    unpacked = msgpack.unpackb(FrameEncoder(**head).encode(tail))
    assert repr(unpacked) == repr({"v": 1, **{name: head[name] for name in HEAD}, **tail})


def test_an_encoder_packs_one_frame_after_another() -> None:
    encoder = FrameEncoder(**HEAD)
    first, second = (decode(encoder.encode({**TAIL, "seq": seq})) for seq in (1, 2))
    assert (first.seq, second.seq, first.run) == (1, 2, "r")


def test_fields_without_end_are_given_up_at_the_size_of_a_frame() -> None:
    looked_at = 0

    class Endless(list[object]):
        def __iter__(self) -> Iterator[object]:
            nonlocal looked_at
            while True:
                looked_at += 1
                yield [[0] * MAX_ITEMS] * MAX_ITEMS

    with pytest.raises(FieldsTooLargeError):
        clean_fields(Endless())
    assert looked_at <= 2
