"""Pickles become plain data; whatever is in them, nothing is called, and time and memory are bounded."""

from __future__ import annotations

import collections
import pickle
import pickletools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile_checkpoints as hostile
from hostile_checkpoints import global_, text
from rlhfd_daemon.checkpoints import pickle_machine, pickle_tree
from rlhfd_daemon.checkpoints.defect import Refused
from rlhfd_daemon.checkpoints.pickle_names import FOREIGN, KNOWN, UNSAFE, judge
from rlhfd_daemon.checkpoints.pickle_tree import Tree
from rlhfd_daemon.checkpoints.pickle_values import Opaque, Values
from rlhfd_daemon.checkpoints.tensor import Tensor

STORED = {"0": (1000, 16)}


def read(data: bytes) -> Tree:
    return pickle_tree.read(data, Values("x.pt", STORED))


def refused(data: bytes) -> str:
    with pytest.raises(Refused) as caught:
        read(data)
    return caught.value.defect.kind


def outcome(data: bytes) -> str:
    try:
        read(data)
    except Refused as error:
        return error.defect.kind
    return "read"


numbers = st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()
plain = st.recursive(
    numbers | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text() | st.booleans() | st.integers(-(1 << 62), 1 << 62), inner, max_size=5)
        | st.tuples(inner, inner)
    ),
    max_leaves=30,
)


@given(plain, st.sampled_from([2, 3, 4, 5]))
def test_plain_data_is_what_pickle_makes_of_it(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    if protocol == 2 and (b"_codecs" in data or b"__builtin__" in data):  # bytes were a call then, empty ones another
        return
    found = read(data)
    assert (found.value, found.end) == (value, len(data))
    if b"_codecs" not in data:
        assert found.defects == ()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_containers_of_the_standard_library_become_plain_ones(protocol: int) -> None:
    value = [collections.OrderedDict(a=1), collections.defaultdict(list, b=[2]), {3}, frozenset([4]), 5 + 0j]
    found = read(pickle.dumps(value, protocol)).value
    assert isinstance(found, list)
    assert found[:4] == [{"a": 1}, {"b": [2]}, [3], [4]]
    assert isinstance(found[4], Opaque)


def test_a_tensor_is_placed_in_its_storage() -> None:
    entry = hostile.entry_of_tensor(shape=b"K\x02\x85", strides=b"K\x01\x85", offset=b"K\x01")
    assert read(entry + b".").value == Tensor("", "float32", (2,), "x.pt", 1004)
    scalar = read(hostile.entry_of_tensor(shape=b")", strides=b")") + b".").value
    assert scalar == Tensor("", "float32", (), "x.pt", 1000)


LONG = b"\x8a\x08" + b"\xff" * 7 + b"\x7f"  # 2**63 - 1


@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        ("malformed", hostile.entry_of_tensor(shape=b"K\x05\x85")),
        ("malformed", hostile.entry_of_tensor(offset=b"K\x01")),
        ("malformed", hostile.entry_of_tensor(strides=b"K\x02\x85")),
        ("malformed", hostile.entry_of_tensor(shape=LONG + b"\x85")),
        ("malformed", hostile.entry_of_tensor(shape=LONG + LONG + b"\x86", strides=b"K\x01K\x01\x86")),
        ("malformed", hostile.entry_of_tensor(shape=b"J\xff\xff\xff\xff\x85")),
        ("malformed", hostile.entry_of_tensor(strides=b"J\xff\xff\xff\xff\x85")),
        ("malformed", hostile.entry_of_tensor(shape=b"\x8a\x09" + b"\0" * 8 + b"\x01\x85")),
        ("malformed", hostile.entry_of_tensor(strides=b"K\x01K\x01\x86")),
        ("malformed", hostile.entry_of_tensor(shape=b"G\x40\x00\x00\x00\x00\x00\x00\x00\x85")),
        ("malformed", hostile.entry_of_tensor(shape=b"(" + b"K\x01" * 65 + b"t", strides=b"(" + b"K\x01" * 65 + b"t")),
        ("limit", hostile.entry_of_tensor(shape=LONG + b"\x85", strides=b"K\x00\x85")),
        ("missing", hostile.entry_of_tensor().replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001")),
        ("truncated", hostile.entry_of_tensor().replace(b"cpuK\x04", b"cpuK\x05")),
        ("unsupported", hostile.entry_of_tensor().replace(b"FloatStorage", b"QInt8Storage")),
        ("malformed", global_("torch._utils", "_rebuild_tensor_v2") + b")R"),
        ("malformed", global_("torch._utils", "_rebuild_tensor_v2") + b"(NNNNtR"),
    ],
)  # fmt: skip
def test_a_tensor_that_cannot_be_is_a_defect_and_the_rest_is_read(kind: str, entry: bytes) -> None:
    found = read(b"](K\x07" + entry + b"e.")
    assert isinstance(found.value, list)
    assert (found.value[0], type(found.value[1])) == (7, Opaque)
    assert [one.kind for one in found.defects] == [kind]


def calls(module: str, name: str) -> dict[str, bytes]:
    """A call of a function with the argument ``touch``, by each opcode that can make one."""
    named, argument = global_(module, name), text("touch")
    dotted = text(module) + text(name) + b"\x93"
    return {
        "REDUCE": named + argument + b"\x85R.",
        "NEWOBJ": named + argument + b"\x85\x81.",
        "NEWOBJ_EX": named + argument + b"\x85}\x92.",
        "INST": b"(" + argument + f"i{module}\n{name}\n".encode() + b".",
        "OBJ": b"(" + named + argument + b"o.",
        "BUILD": named + argument + b"b.",
        "STACK_GLOBAL": dotted + argument + b"\x85R.",
        "by APPEND": named + argument + b"a.",
        "in an OrderedDict": global_("collections", "OrderedDict") + b")R" + argument + named + argument + b"\x85Rs.",
        "from_type": global_("torch._tensor", "_rebuild_from_type_v2") + b"(" + named + b"N" + argument + b"\x85NtR.",
        "cut off": named + argument + b"\x85R",
    }


@pytest.mark.parametrize("how", calls("os", "system"))
def test_a_call_is_not_made_and_said(how: str) -> None:
    try:
        found = read(calls("os", "system")[how])
    except Refused as error:
        assert how == "cut off"  # a loader would have made the call before it came to the end
        defect = error.defect
    else:
        defect = found.defects[0]
    assert defect.kind == "unsafe"
    assert defect.evidence == {"names": ["os.system"]}


def test_an_extension_code_is_only_named() -> None:
    found = read(b"\x82\x05N\x85R.")
    assert repr(found.value) == "<copyreg.extension 5>"
    assert [one.kind for one in found.defects] == ["foreign"]


@pytest.mark.parametrize(("module", "name", "expected"), [
    ("os", "system", UNSAFE), ("posix", "system", UNSAFE), ("builtins", "eval", UNSAFE), ("torch", "load", UNSAFE),
    ("builtins", "getattr", UNSAFE), ("builtins", "set", KNOWN), ("__builtin__", "set", KNOWN),
    ("__builtin__", "eval", UNSAFE),
    ("torch", "bfloat16", KNOWN), ("torch", "FloatStorage", KNOWN), ("torch.hub", "load", UNSAFE),
    ("torch.serialization", "os.system", UNSAFE), ("torch._utils", "_rebuild_tensor_v2", KNOWN),
    ("torch._inductor.codecache", "compile_file", UNSAFE), ("numpy.testing._private.utils", "runstring", UNSAFE),
    ("functools", "partial", UNSAFE), ("operator", "attrgetter", UNSAFE), ("importlib", "import_module", UNSAFE),
    ("transformers.modeling_utils", "os.system", UNSAFE), ("mylib.state", "State", FOREIGN),
    ("mylib", "Thing.__reduce__", UNSAFE), ("torch.utils.cpp_extension", "load", UNSAFE), ("_codecs", "encode", KNOWN),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum", KNOWN), ("codecs", "open", UNSAFE), ("", "", FOREIGN),
    ("types", "FunctionType", UNSAFE), ("types", "SimpleNamespace", KNOWN), ("ctypes.util", "find_library", UNSAFE),
])  # fmt: skip
def test_names_are_judged(module: str, name: str, expected: str) -> None:
    assert judge(module, name) == expected


def test_data_that_contains_itself_is_read() -> None:
    value: list[Any] = [1]
    value.append(value)
    found: Any = read(pickle.dumps(value, 2)).value
    assert found[1] is found
    loop: dict[str, Any] = {}
    loop["x"] = {"y": loop}
    found = read(pickle.dumps(loop, 4)).value
    assert found["x"]["y"] is found


def test_limits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(b"(" * 300 + b".") == "limit"
    assert refused(b"\x8a\xff" + b"\1" * 255 + b"\x8b\x00\x02\x00\x00" + b"\1" * 512 + b".") == "limit"
    assert refused(b"\x80\x06N.") == "unsupported"
    assert refused(b"I1\n.") == "unsupported"
    assert refused(b"\x97.") == "unsupported"  # a buffer beside the pickle
    assert refused(b"c" + b"x" * 2000 + b"\nname\n.") == "malformed"
    assert refused(text("x" * 2000) + text("y") + b"\x93.") == "malformed"
    with pytest.raises(Refused, match="more than 1000 opcodes"):
        pickle_tree.read(b"N0" * 501 + b".", Values("x.pt", STORED), opcodes=1000)
    monkeypatch.setattr(pickle_machine, "MAX_TEXT_BYTES", 1000)
    assert refused(text("x" * 900) + b"0" + text("x" * 900) + b".") == "limit"
    monkeypatch.setattr(pickle_tree, "MAX_BYTES", 10)
    assert refused(b"N0" * 10 + b".") == "limit"


def test_lists_of_lists_that_double_take_no_time() -> None:
    doubled = b"]q\x00"
    for index in range(60):
        doubled += b"](" + b"h" + bytes([index]) + b"h" + bytes([index]) + b"eq" + bytes([index + 1])
    found: Any = read(doubled + b".").value
    assert len(found) == 2


def test_keys_made_to_have_one_hash_value_take_no_time() -> None:
    prime = (1 << 61) - 1
    keys = b"".join(b"\x8a\x10" + (prime * index).to_bytes(16, "little") + b"N" for index in range(1, 100_000))
    found = read(b"}(" + keys + b"u.").value
    assert isinstance(found, dict)
    assert len(found) == 99_999


@pytest.mark.parametrize(
    "key", [b"]", b"}", global_("torch._utils", "_rebuild_tensor_v2") + b")R", b")", b"G" + b"\0" * 8]
)
def test_any_key_is_taken_or_refused(key: bytes) -> None:
    assert outcome(b"}" + key + b"Ns.") in ("read", "malformed")


WHOLE = b"\x80\x02](" + hostile.entry_of_tensor() + text("name") + b"}q\x01K\x01Nse."


def test_a_pickle_that_is_cut_at_any_byte_is_refused() -> None:
    for end in range(len(WHOLE)):
        assert refused(WHOLE[:end]) == "malformed", end


OPCODES = bytes(ord(one.code) for one in pickletools.opcodes)


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["changed", "opcodes", "random"]))
    if kind == "changed":
        content = bytearray(WHOLE)
        for _ in range(data.draw(st.integers(1, 5))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.sampled_from(OPCODES))
    elif kind == "opcodes":
        chosen = random.Random(data.draw(st.integers(0, 1 << 30)))  # longer than hypothesis likes to draw
        content = bytearray(chosen.choice(OPCODES) for _ in range(chosen.randrange(300)))
    else:
        content = bytearray(data.draw(st.binary(max_size=300)))
    assert outcome(bytes(content) + b".") in ("read", "malformed", "limit", "unsupported", "unsafe")
