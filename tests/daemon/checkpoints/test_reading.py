"""The bytes of a tensor: each element once and in order, at the allowed rate, and never beyond the file."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhfd_daemon.checkpoints import reading
from rlhfd_daemon.checkpoints.defect import Refused
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.reading import Pace, blocks, is_contiguous, span
from rlhfd_daemon.checkpoints.tensor import ITEM_BYTES, Tensor

TYPES = {1: "uint8", 2: "float16", 4: "float32", 8: "float64"}


def content(folder: Path, tensor: Tensor, size: int) -> bytes:
    with Folder.open(folder) as opened, opened.file(tensor.file) as file:
        return b"".join(bytes(block) for block in blocks(tensor, file, size))


@st.composite
def strided(draw: st.DrawFn) -> Tensor:
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    strides = tuple(draw(st.sampled_from([0, 1, 2, 3, 6, 7, 20])) for _ in shape)
    offset = draw(st.integers(0, 9))
    return Tensor("t", draw(st.sampled_from(list(TYPES.values()))), shape, "x", offset, strides)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(strided(), st.integers(1, 64), st.sampled_from([1, 64, 200, 1 << 20]))
def test_elements_come_in_row_major_order_whatever_the_strides(
    tmp_path: Path, tensor: Tensor, size: int, window: int
) -> None:
    raw = bytes(range(251)) * 16
    if not (tmp_path / "x").exists():
        (tmp_path / "x").write_bytes(raw)
    item = ITEM_BYTES[tensor.dtype]
    flat = np.frombuffer(raw[tensor.offset :], f"V{item}", (len(raw) - tensor.offset) // item)
    steps = [stride * item for stride in tensor.strides]
    expected = np.lib.stride_tricks.as_strided(flat, tensor.shape, steps).tobytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "WINDOW", window)
        patch.setattr(reading, "AMPLIFIED", 1 << 40)
        assert content(tmp_path, tensor, size) == expected


def test_a_contiguous_tensor_comes_in_blocks_of_whole_elements(tmp_path: Path) -> None:
    raw = os.urandom(4000)
    (tmp_path / "x").write_bytes(b"head" + raw)
    tensor = Tensor("t", "float64", (500,), "x", 4)
    with Folder.open(tmp_path) as folder, folder.file("x") as file:
        found = [bytes(block) for block in blocks(tensor, file, 1001)]
        assert [len(one) for one in found] == [1000] * 4
        assert b"".join(found) == raw
        assert [bytes(one) for one in blocks(Tensor("s", "float16", (), "x", 4), file)] == [raw[:2]]
        assert list(blocks(Tensor("e", "float16", (0, 5), "x", 4), file)) == []


@pytest.mark.parametrize("tensor", [
    Tensor("t", "float32", (26,), "x", 0), Tensor("t", "float32", (5, 5), "x", 4, (1, 5)),
    Tensor("t", "float32", (1 << 60,), "x", 0), Tensor("t", "uint8", (1,), "x", -1),
])  # fmt: skip
def test_a_tensor_beyond_the_file_is_refused(tmp_path: Path, tensor: Tensor) -> None:
    (tmp_path / "x").write_bytes(bytes(100))
    with pytest.raises(Refused, match="ends before"):
        content(tmp_path, tensor, 64)


def test_a_tensor_that_is_scattered_over_far_more_than_it_has_is_refused(tmp_path: Path) -> None:
    size = reading.WINDOW * 2
    with (tmp_path / "x").open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    tensor = Tensor("t", "uint8", (1 << 14, 2), "x", 0, (1, size - (1 << 14)))
    with pytest.raises(Refused, match="scattered"):
        content(tmp_path, tensor, 1 << 20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(strided())
def test_in_storage_order_the_same_elements_come_without_a_gap(tmp_path: Path, tensor: Tensor) -> None:
    if not (tmp_path / "x").exists():
        (tmp_path / "x").write_bytes(bytes(range(251)) * 16)
    found = reading.in_storage_order(tensor)
    assert (found.offset, found.elements) == (tensor.offset, tensor.elements)
    assert found is tensor or not found.strides
    item = ITEM_BYTES[tensor.dtype]
    each = [content(tmp_path, one, 1 << 20) for one in (tensor, found)]
    first, second = (sorted(raw[at : at + item] for at in range(0, len(raw), item)) for raw in each)
    assert first == second


def test_a_transposed_tensor_is_read_as_it_lies() -> None:
    tensor = Tensor("t", "float32", (1 << 14, 3, 1 << 14), "x", 8, (1, 1 << 28, 1 << 14))
    assert reading.in_storage_order(tensor) == Tensor("t", "float32", (3, 1 << 14, 1 << 14), "x", 8)
    for sliced in ((1 << 14, 3, 1 << 14), (1, 1 << 29, 1 << 14)), ((4, 2), (1, 0)):
        scattered = Tensor("t", "float32", sliced[0], "x", 8, sliced[1])
        assert reading.in_storage_order(scattered) is scattered


def test_the_pace_is_kept_and_idle_time_is_not_saved_up() -> None:
    pace = Pace(rate=100.0)
    assert pace.take(50, now=10.0) == pytest.approx(0.5)
    assert pace.take(50, now=10.1) == pytest.approx(0.9)
    assert pace.take(10, now=99.0) == pytest.approx(0.1)


def test_reading_waits_as_the_pace_says(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(1000))
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with Folder.open(tmp_path) as folder, folder.file("x") as file:
        tensor, pace = Tensor("t", "uint8", (1000,), "x", 0), Pace(100.0)
        for _ in blocks(tensor, file, 100, pace=pace, sleep=sleep, clock=lambda: now[0], forget=True):
            pass
    assert now[0] == pytest.approx(10.0)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), max_size=4))
def test_what_is_called_contiguous_is(dims: list[tuple[int, int]]) -> None:
    shape, strides = tuple(size for size, _ in dims), tuple(stride for _, stride in dims)
    if is_contiguous(shape, strides) and 0 not in shape:
        assert span(Tensor("t", "uint8", shape, "x", 0, strides)) == math.prod(shape)


def test_a_process_can_step_back() -> None:
    code = "import os; from rlhfd_daemon.checkpoints.priority import step_back; print(step_back(5), os.nice(0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    before = os.nice(0)
    assert done.stdout.split() == ["True", str(min(before + 5, 19))]
