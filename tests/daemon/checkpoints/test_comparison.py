"""Tensors beside those of the checkpoint before, by kernel.c and by numpy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_bytes import DTYPES, KERNELS, Array, both_kernels, cut, doubles, normal, whole
from rlhfd_daemon.checkpoints.comparison import Comparison, comparison, differences, structure, tolerance
from rlhfd_daemon.checkpoints.kernel import Kernel
from rlhfd_daemon.checkpoints.portable import Differences
from rlhfd_daemon.checkpoints.tensor import ITEM_BYTES, Tensor
from rlhfd_daemon.errors import CheckpointError

types = st.sampled_from(DTYPES)


def of(old: tuple[str, bytes], new: tuple[str, bytes], using: Kernel | None = None, size: int = 4096) -> Comparison:
    return comparison(differences(old[0], cut(old[1], size), new[0], cut(new[1], size + 5), using))


def check(found: Comparison, old: Array, new: Array, limits: tuple[float, float]) -> None:
    """Against whole arrays."""
    both = np.isfinite(old) & np.isfinite(new)
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    a, b = old[both], new[both]
    with np.errstate(over="ignore", invalid="ignore"):
        near = np.abs(b - a) <= limits[0] * np.maximum(np.abs(a), np.abs(b)) + limits[1]
        norms = float(np.linalg.norm(a)), float(np.linalg.norm(b)), float(np.linalg.norm(b - a))
    assert (found.elements, found.finite) == (old.size, a.size)
    assert found.changed == (~same[~both]).sum() + (~near).sum()
    assert found.unchanged == (old.size > 0 and found.changed == 0)
    assert found.largest_change == (float(np.abs(b - a).max()) if a.size else None)
    if norms[0] == 0:
        assert (found.relative_update, found.norm_ratio, found.cosine) == (None, None, None)
    elif all(1e-140 < one < 1e140 or one == 0 for one in norms):
        assert found.relative_update == pytest.approx(norms[2] / norms[0], rel=1e-12)
        assert found.norm_ratio == pytest.approx(norms[1] / norms[0], rel=1e-12)
        if norms[1]:
            assert found.cosine == pytest.approx(float(np.dot(a / norms[0], b / norms[1])), abs=1e-12)
            assert abs(found.cosine or 0.0) <= 1


@both_kernels
@given(types, types, st.binary(max_size=200), st.binary(max_size=200), st.booleans())
@settings(max_examples=300)
def test_any_bits_of_any_two_types_give_what_whole_arrays_give(
    using: Kernel, first: str, second: str, old: bytes, new: bytes, copied: bool
) -> None:
    if copied:
        second, new = first, old
    count = min(len(old) // ITEM_BYTES[first], len(new) // ITEM_BYTES[second])
    old, new = old[: count * ITEM_BYTES[first]], new[: count * ITEM_BYTES[second]]
    a, b = doubles(first, old), doubles(second, new)
    if max(np.abs(one[np.isfinite(one)]).max(initial=0.0) for one in (a, b)) < 1e150:
        check(of((first, old), (second, new), using, 24), a, b, tolerance(first, second))


@both_kernels
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int32", "int64"])
def test_an_update_of_many_is_what_whole_arrays_give(dtype: str, using: Kernel) -> None:
    old, new = normal(dtype, 50_003), normal(dtype, 50_003, mean=1e-4)
    new = old[:1000] + new[1000:]
    found = of((dtype, old), (dtype, new), using)
    check(found, doubles(dtype, old), doubles(dtype, new), (0.0, 0.0))
    assert 0.5 < (found.changed_ratio or 0.0) < 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_kernels_count_the_same(dtype: str) -> None:
    data = np.random.default_rng(0).bytes(40_000)
    old, new = whole(dtype, data[:20_000]), whole(dtype, data[20_000:])
    first, second = (differences(dtype, [memoryview(old)], dtype, [memoryview(new)], using) for using in KERNELS)
    assert (first.count, first.changed, first.odd) == (second.count, second.changed, second.odd)
    assert first.largest == second.largest


@both_kernels
def test_a_master_weight_and_its_bfloat16_are_the_same(using: Kernel) -> None:
    master = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    bits = master.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)
    found = of(("float32", master.tobytes()), ("bfloat16", rounded.tobytes()), using)
    assert found.unchanged
    assert 0 < (found.relative_update or 0.0) < 2**-8
    rounded[77] += 2
    assert of(("float32", master.tobytes()), ("bfloat16", rounded.tobytes()), using).changed == 1


@both_kernels
def test_one_step_of_the_last_bit_is_a_change(using: Kernel) -> None:
    old = np.ones(3000, np.float32)
    new = old.copy()
    new[2999] = np.nextafter(np.float32(1), np.float32(2))
    found = of(("float32", old.tobytes()), ("float32", new.tobytes()), using)
    assert (found.changed, found.unchanged, found.largest_change) == (1, False, 2.0**-23)


@both_kernels
def test_what_is_not_finite_counts_as_changed_unless_it_stays(using: Kernel) -> None:
    old = np.array([math.nan, math.inf, math.inf, 1.0, math.nan, 0.0], np.float32)
    new = np.array([math.nan, math.inf, -math.inf, math.nan, 1.0, -0.0], np.float32)
    found = of(("float32", old.tobytes()), ("float32", new.tobytes()), using)
    assert (found.elements, found.finite, found.changed) == (6, 1, 3)


@both_kernels
def test_a_tensor_a_thousand_times_larger_moved_by_three_orders_of_magnitude(using: Kernel) -> None:
    old = np.arange(1, 100, dtype=np.float32)
    found = of(("float32", old.tobytes()), ("float32", (old * 1000).tobytes()), using)
    assert found.orders_of_magnitude == pytest.approx(3.0)
    assert found.cosine == pytest.approx(1.0)
    assert replace(found, norm_ratio=0.0).orders_of_magnitude is None


@both_kernels
@given(st.binary(max_size=400), st.integers(0, 50))
def test_sums_of_shards_are_those_of_the_whole(using: Kernel, data: bytes, at: int) -> None:
    half = len(data) // 8 * 4
    old, new, at = data[:half], data[half : 2 * half], min(at * 4, half)
    parts = [
        differences("float32", [memoryview(old[some])], "float32", [memoryview(new[some])], using)
        for some in (slice(at), slice(at, None))
    ]
    together, at_once = Differences(), differences("float32", [memoryview(old)], "float32", [memoryview(new)], using)
    for part in parts:
        together.add(part)
    for name in ("count", "changed", "odd", "largest"):
        assert getattr(together, name) == getattr(at_once, name)
    for name in ("distance", "old_square", "new_square"):
        assert getattr(together, name) == pytest.approx(getattr(at_once, name), rel=1e-12)


@pytest.mark.parametrize(("old", "new"), [(8, 4), (4, 8), (0, 4), (4, 0)])
def test_sides_of_different_sizes_are_an_error(old: int, new: int) -> None:
    with pytest.raises(CheckpointError, match="more elements"):
        of(("float32", bytes(old)), ("float32", bytes(new)))


def test_empty_ones_have_nothing_to_tell() -> None:
    found = of(("float32", b""), ("bfloat16", b""))
    assert found == Comparison(0, 0, 0, None, None, None, None)
    assert not found.unchanged
    assert found.changed_ratio is None


def test_what_became_of_the_tensors_is_told_by_name() -> None:
    def tensor(name: str, dtype: str = "float32", shape: tuple[int, ...] = (2, 3)) -> Tensor:
        return Tensor(name, dtype, shape, "file", 0)

    old = {one.name: one for one in map(tensor, ("same", "gone", "typed", "shaped"))}
    new = {
        one.name: one
        for one in (tensor("same"), tensor("typed", "bfloat16"), tensor("shaped", shape=(6,)), tensor("came"))
    }
    found = structure(old, new)
    assert (found.appeared, found.vanished) == (("came",), ("gone",))
    assert (found.reshaped, found.retyped, found.common) == (("shaped",), ("typed",), ("same", "typed"))
    assert not found.same
    assert structure(old, old).same
