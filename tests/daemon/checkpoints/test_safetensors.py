"""safetensors: what the format allows is read, what it forbids is refused, a set of shards agrees with its index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hostile_checkpoints as hostile
from rlhfd_daemon.checkpoints import safetensors
from rlhfd_daemon.checkpoints.contents import Contents
from rlhfd_daemon.checkpoints.defect import Vanished
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.reading import blocks

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def read(folder: Path, content: bytes) -> Contents:
    hostile.put(folder, "model.safetensors", content)
    with Folder.open(folder) as opened, opened.file("model.safetensors") as file:
        return safetensors.read(file)


def kinds(found: Contents) -> list[str]:
    return [one.kind for one in found.defects]


def test_a_file_is_read_in_the_order_of_its_data(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]},
        "a": F32,
        "empty": {"dtype": "F16", "shape": [0, 7], "data_offsets": [16, 16]},
    }
    found = read(tmp_path, hostile.safetensors(header, bytes(range(16))))
    assert found.defects == ()
    assert found.metadata == {"format": "pt"}
    assert [(one.name, one.dtype, one.shape) for one in found.tensors] == [
        ("a", "float32", (2,)), ("b", "bfloat16", (2, 2)), ("empty", "float16", (0, 7)),
    ]  # fmt: skip
    with (
        Folder.open(tmp_path) as folder,
        folder.file("model.safetensors", found.identities["model.safetensors"]) as one,
    ):
        assert [b"".join(map(bytes, blocks(tensor, one))) for tensor in found.tensors] == [
            bytes(range(8)), bytes(range(8, 16)), b"",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "header", "data"),
    [
        ("malformed", {"a": {**F32, "data_offsets": [0, 4]}}, 8),
        ("malformed", {"a": {**F32, "data_offsets": [8, 0]}}, 8),
        ("malformed", {"a": {**F32, "data_offsets": [-8, 0]}}, 8),
        ("malformed", {"a": {**F32, "shape": [-2]}}, 8),
        ("malformed", {"a": {**F32, "shape": [2.0]}}, 8),
        ("malformed", {"a": {**F32, "shape": [True, 2]}}, 8),
        ("malformed", {"a": {**F32, "shape": [1 << 62, 1 << 62]}}, 8),
        ("malformed", {"a": {**F32, "shape": [1 << 63]}}, 8),
        ("malformed", {"a": {**F32, "shape": [1] * 65 + [2]}}, 8),
        ("malformed", {"a": {**F32, "dtype": "F33"}}, 8),
        ("malformed", {"a": {**F32, "dtype": ["F32"]}}, 8),
        ("malformed", {"a": {**F32, "more": 1}}, 8),
        ("malformed", {"a": 1}, 8),
        ("malformed", {"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, 12),
        ("malformed", {"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, 20),
        ("malformed", {"a": F32}, 12),
        ("truncated", {"a": F32}, 7),
        ("malformed", {"__metadata__": {"format": 1}}, 0),
        ("malformed", b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],'
         b'"data_offsets":[0,8]}}', 8),
        ("malformed", b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
        ("malformed", b'{"a":NaN}', 0),
        ("malformed", b"[]", 0),
        ("malformed", b"{" * 100_000, 0),
        ("malformed", b'{"a":' + b"[" * 100_000 + b"}", 0),
        ("malformed", b'{"a":' + b"1" * 100_000 + b"}", 0),
        ("malformed", b"\xff\xfe{}", 0),
        ("limit", b'{"a":[' + b"[]," * 4_000_001 + b"]}", 0),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_refused(tmp_path: Path, kind: str, header: Any, data: int) -> None:
    found = read(tmp_path, hostile.safetensors(header, bytes(data)))
    assert kinds(found) == [kind]
    assert found.tensors == ()


def test_a_header_may_not_be_longer_than_the_format_allows_nor_than_the_file(tmp_path: Path) -> None:
    assert kinds(read(tmp_path, (100_000_001).to_bytes(8, "little") + b"{}")) == ["malformed"]
    assert kinds(read(tmp_path, (1 << 63).to_bytes(8, "little") + b"{}")) == ["malformed"]
    assert kinds(read(tmp_path, (3).to_bytes(8, "little") + b"{}")) == ["truncated"]
    assert kinds(read(tmp_path, b"")) == ["truncated"]


def test_a_type_that_is_not_read_is_said_and_the_others_are_read(tmp_path: Path) -> None:
    header = {"a": F32, "b": {"dtype": "F8_E8M0", "shape": [3], "data_offsets": [8, 11]}}
    found = read(tmp_path, hostile.safetensors(header, bytes(11)))
    assert ([one.name for one in found.tensors], kinds(found)) == (["a"], ["unsupported"])
    assert found.defects[0].tensor == "b"


def test_a_file_that_is_cut_at_any_byte_has_a_defect(tmp_path: Path) -> None:
    whole = hostile.safetensors({"a": F32}, bytes(8))
    for end in range(len(whole)):
        assert kinds(read(tmp_path, whole[:end])) == ["truncated"], end


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(st.data())
def test_any_change_of_a_byte_gives_a_defect_or_tensors_within_the_file(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(hostile.safetensors({"a": F32, "b": {**F32, "data_offsets": [8, 16]}}, bytes(16)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    found = read(tmp_path, bytes(content))
    for tensor in found.tensors:
        assert 8 <= tensor.offset <= tensor.offset + tensor.nbytes <= len(content)


def shards(folder: Path, index: Any, **held: dict[str, int]) -> Contents:
    """Two-element tensors in shards; ``held``: offsets by name and shard."""
    for shard, names in held.items():
        header = {name: {**F32, "data_offsets": [at, at + 8]} for name, at in names.items()}
        hostile.put(folder, f"{shard}.safetensors", hostile.safetensors(header, bytes(8 * len(names))))
    hostile.put(
        folder, "model.safetensors.index.json", index if isinstance(index, bytes) else json.dumps(index).encode()
    )
    with Folder.open(folder) as opened:
        return safetensors.read_index(opened, "model.safetensors.index.json")


ONE, TWO = "one.safetensors", "two.safetensors"


def test_shards_are_read_together(tmp_path: Path) -> None:
    index = {"metadata": {"total_size": 24}, "weight_map": {"a": ONE, "b": TWO, "c": TWO}}
    found = shards(tmp_path, index, one={"a": 0}, two={"b": 0, "c": 8})
    assert found.defects == ()
    assert [(one.name, one.file) for one in found.tensors] == [("a", ONE), ("b", TWO), ("c", TWO)]
    assert set(found.identities) == {ONE, TWO, "model.safetensors.index.json"}


@pytest.mark.parametrize(
    ("expected", "places", "size"),
    [
        ([("missing", "three.safetensors")], {"a": ONE, "b": TWO, "c": "three.safetensors"}, 16),
        ([("missing", TWO)], {"a": ONE, "b": TWO, "c": TWO}, 16),
        ([("missing", ONE)], {"a": ONE, "b": ONE}, 16),
        ([("inconsistent", TWO), ("missing", ONE), ("missing", TWO)], {"a": ONE, "b": ONE, "d": TWO}, 16),
        ([("inconsistent", TWO), ("missing", TWO)], {"a": ONE, "d": TWO}, 16),
        ([("inconsistent", "model.safetensors.index.json")], {"a": ONE, "b": TWO}, 24),
    ],
)  # fmt: skip
def test_shards_that_do_not_agree_with_their_index(
    tmp_path: Path, expected: list[tuple[str, str]], places: dict[str, str], size: int
) -> None:
    found = shards(tmp_path, {"metadata": {"total_size": size}, "weight_map": places}, one={"a": 0}, two={"b": 0})
    assert sorted((one.kind, one.file) for one in found.defects) == expected


@pytest.mark.parametrize(
    "index",
    [b"[]", b"{}", {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../one.safetensors"}},
     {"weight_map": {"a": "/etc/passwd"}}, b'{"weight_map":{"a":"one.safetensors","a":"one.safetensors"}}'],
)  # fmt: skip
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: Any) -> None:
    found = shards(tmp_path, index, one={"a": 0})
    assert ([one.kind for one in found.defects], found.tensors) == (["malformed"], ())


def test_an_index_that_is_gone_has_vanished(tmp_path: Path) -> None:
    with Folder.open(tmp_path) as folder, pytest.raises(Vanished):
        safetensors.read_index(folder, "model.safetensors.index.json")
