"""Statistics of tensors, by kernel.c and by numpy, beside whole arrays in float64 and exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_bytes import DTYPES, KERNELS, Array, both_kernels, cut, doubles, normal, whole
from rlhfd_daemon.checkpoints import kernel as kernels
from rlhfd_daemon.checkpoints.kernel import Kernel, kernel
from rlhfd_daemon.checkpoints.portable import Moments, Numpy
from rlhfd_daemon.checkpoints.statistics import QUANTILES, TensorStatistics, statistics
from rlhfd_daemon.checkpoints.tally import Tally, merge, tally
from rlhfd_daemon.checkpoints.tensor import ITEM_BYTES
from rlhfd_daemon.checkpoints.values import CODED
from rlhfd_daemon.errors import CheckpointError

raw = st.binary(max_size=200)


def of(dtype: str, data: bytes, using: Kernel | None = None, size: int = 1 << 20) -> TensorStatistics:
    return statistics(tally(dtype, cut(data, size), using))


def close(found: float | None, expected: float, scale: float = 0.0, within: float = 1e-12) -> bool:
    assert found is not None
    return found == expected or abs(found - expected) <= within * max(abs(expected), scale)


def check(found: TensorStatistics, values: Array) -> None:
    """Against the whole array; moments against exact fractions."""
    finite = values[np.isfinite(values)]
    assert found.elements == values.size
    assert (found.nan, found.infinite) == (np.isnan(values).sum(), np.isinf(values).sum())
    assert found.zeros == (finite == 0).sum()
    assert found.constant == (values.size > 1 and finite.size == values.size and bool((values == values[0]).all()))
    if not finite.size:
        assert {found.mean, found.std, found.min, found.max, found.norm, found.largest, found.quantiles} == {None}
        return
    assert (found.min, found.max, found.largest) == (finite.min(), finite.max(), np.abs(finite).max())
    check_moments(found, finite)
    check_quantiles(found, finite)


def check_moments(found: TensorStatistics, finite: Array) -> None:
    numbers = [Fraction(float(one)) for one in finite]
    mean = sum(numbers, Fraction()) / len(numbers)
    largest = float(np.abs(finite).max())
    if largest < 1e150:
        square = sum((one**2 for one in numbers), Fraction())
        variance = sum(((one - mean) ** 2 for one in numbers), Fraction()) / len(numbers)
        assert close(found.mean, float(mean), largest)
        if largest == 0 or largest > 1e-150:  # else squares underflow
            assert close(found.norm, math.sqrt(square), 1e-150)
            assert close(found.std, math.sqrt(variance), 1e-15 * largest)


def check_quantiles(found: TensorStatistics, finite: Array) -> None:
    assert found.quantiles is not None
    assert found.min is not None
    assert found.max is not None
    ordered = np.sort(finite)
    assert all(a <= b for a, b in pairwise((found.min, *found.quantiles, found.max)))
    for quantile, value in zip(QUANTILES, found.quantiles, strict=True):
        place = quantile * (ordered.size - 1)
        low, high = (float(ordered[round_(place)]) for round_ in (math.floor, math.ceil))
        exact = low + (high - low) * (place - math.floor(place))
        if found.quantiles_exact:
            assert close(value, exact, max(abs(low), abs(high)), 1e-15)
        elif max(abs(low), abs(high)) < 3.38e38:
            assert abs(value - exact) <= 2.0**-7 * max(abs(low), abs(high)) * (1 + 1e-9) + 2.0**-133


@both_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=raw)
@settings(max_examples=60)
def test_any_bits_give_what_the_whole_array_gives(dtype: str, using: Kernel, data: bytes) -> None:
    data = whole(dtype, data)
    check(of(dtype, data, using), doubles(dtype, data))


@both_kernels
@pytest.mark.parametrize("dtype", sorted(CODED))
def test_every_code_is_understood(dtype: str, using: Kernel) -> None:
    codes = np.arange(1 << 8 * ITEM_BYTES[dtype]).astype(f"u{ITEM_BYTES[dtype]}")
    data = codes.tobytes()
    values = doubles(dtype, data)
    found = tally(dtype, cut(data, 1 << 20), using)
    assert found.elements == codes.size
    assert found.counts.tolist() == [1] * codes.size
    sums = found.moments()
    assert sums.sum == math.fsum(values[np.isfinite(values)])
    assert sums.square == math.fsum(values[np.isfinite(values)] ** 2)


# Those between 2**-127 and 2**-126 have the exponent of a normal number in float64, and none in float32.
AROUND_SUBNORMAL = [
    sign * factor * 2.0**exponent for exponent in range(-133, -123) for factor in (1.0, 1.25, 1.5) for sign in (1, -1)
]


@both_kernels
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_what_is_subnormal_in_float32_is_counted_by_the_upper_half_that_it_has_there(dtype: str, using: Kernel) -> None:
    narrow = np.array([*AROUND_SUBNORMAL, np.nan], np.float32)  # with a NaN each is looked at alone
    halves = (narrow.view(np.uint32) >> 16).astype(np.uint16)
    data = halves.tobytes() if dtype == "bfloat16" else narrow.astype(dtype).tobytes()
    found = merge([tally(dtype, cut(data, 1 << 20), using), tally("float32", [], using)])
    codes, counts = np.unique(halves[:-1], return_counts=True)
    assert (found.codes.tolist(), found.counts.tolist()) == (codes.tolist(), counts.tolist())


LARGE = ["bfloat16", "float16", "float32", "float64", "int32", "int64"]


@both_kernels
@pytest.mark.parametrize("dtype", LARGE)
@pytest.mark.parametrize("mean", [0.0, 1.0, 1000.0])
def test_sums_of_many_agree_with_two_passes_in_float64(dtype: str, using: Kernel, mean: float) -> None:
    data = normal(dtype, 300_007, mean=mean)
    values = doubles(dtype, data)
    found = of(dtype, data, using)
    assert close(found.mean, float(values.mean()), float(np.abs(values).max()))
    assert close(found.std, float(values.std()), within=1e-11)
    assert close(found.norm, float(np.linalg.norm(values)))
    check_quantiles(found, values)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.binary(max_size=9000), seed=st.integers(0, 9))
@settings(max_examples=20)
def test_both_kernels_count_the_same(dtype: str, data: bytes, seed: int) -> None:
    data = whole(dtype, data + np.random.default_rng(seed).bytes(9000))
    first, second = (tally(dtype, cut(data, 4096), using) for using in KERNELS)
    same(first, second)


def same(first: Tally, second: Tally) -> None:
    assert first.dtype == second.dtype
    assert first.codes.tolist() == second.codes.tolist()
    assert first.counts.tolist() == second.counts.tolist()
    assert (first.sums is None) == (second.sums is None)
    if first.sums is not None and second.sums is not None:
        exactly = ("count", "zeros", "nan", "infinite", "min", "max")
        assert [getattr(first.sums, name) for name in exactly] == [getattr(second.sums, name) for name in exactly]
        same_sums(first.sums, second.sums)


def same_sums(first: Moments, second: Moments) -> None:
    if math.isfinite(first.m2) and math.isfinite(first.square):  # else some square overflowed, in one or in both
        size = max(abs(first.min), abs(first.max), 0.0) if first.count else 0.0
        assert close(first.sum + first.low, second.sum + second.low, size * first.count)
        assert close(first.square, second.square, 1e-290)
        assert close(first.m2, second.m2, 1e-12 * first.square)


@both_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=raw, size=st.integers(1, 50))
@settings(max_examples=30)
def test_the_size_of_blocks_does_not_matter(dtype: str, using: Kernel, data: bytes, size: int) -> None:
    data = whole(dtype, data)
    same(tally(dtype, cut(data, size), using), tally(dtype, [memoryview(data)], using))


@both_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=raw, at=st.integers(0, 200))
@settings(max_examples=30)
def test_merged_parts_equal_the_whole(dtype: str, using: Kernel, data: bytes, at: int) -> None:
    data = whole(dtype, data)
    at -= at % ITEM_BYTES[dtype]
    parts = merge(tally(dtype, [memoryview(part)], using) for part in (data[:at], data[at:]))
    same(parts, tally(dtype, [memoryview(data)], using))


@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.binary(max_size=40)), min_size=1, max_size=5))
def test_a_group_of_several_types_counts_all_of_them(parts: list[tuple[str, bytes]]) -> None:
    parts = [(dtype, whole(dtype, data)) for dtype, data in parts]
    merged = statistics(merge(tally(dtype, [memoryview(data)]) for dtype, data in parts))
    check(merged, np.concatenate([doubles(dtype, data) for dtype, data in parts]))
    kinds = {dtype for dtype, _ in parts}
    assert merged.quantiles_exact == (len(kinds) == 1 and kinds <= CODED)


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])


@both_kernels
@pytest.mark.parametrize(("dtype", "nan"), [("bfloat16", b"\xc1\x7f"), ("float32", b"\x01\x00\x80\x7f")])
@pytest.mark.parametrize("place", [0, 1023, 1024, 77_776])
def test_one_nan_among_many_is_found_and_spoils_nothing(dtype: str, nan: bytes, place: int, using: Kernel) -> None:
    data = normal(dtype, 77_777)
    width = len(nan)
    values = np.delete(doubles(dtype, data), place)
    found = of(dtype, data[: place * width] + nan + data[(place + 1) * width :], using, 65_536)
    assert (found.nan, found.infinite, found.elements) == (1, 0, 77_777)
    assert close(found.mean, float(values.mean()), 0.1)
    assert close(found.std, float(values.std()))
    assert (found.min, found.max) == (values.min(), values.max())


@both_kernels
def test_a_tensor_of_zeros_of_both_signs_is_constant(using: Kernel) -> None:
    found = of("float32", np.array([0.0, -0.0, 0.0], np.float32).tobytes(), using)
    assert found.constant
    assert found.zero_ratio == 1.0
    assert found.quantiles == (0.0,) * len(QUANTILES)


@both_kernels
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_a_quantile_among_zeros_is_zero(dtype: str, using: Kernel) -> None:
    found = of(dtype, np.array([-3, 0, 0, 0, 0, 0, 2], dtype).tobytes(), using)
    assert found.quantiles is not None
    assert found.quantiles[3:6] == (0.0, 0.0, 0.0)
    assert found.zeros == 5


@both_kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_empty_one_has_counts_and_nothing_else(dtype: str, using: Kernel) -> None:
    found = of(dtype, b"", using)
    check(found, np.zeros(0))
    assert found.zero_ratio is None
    assert not found.constant


@both_kernels
def test_a_scalar_is_its_own_mean_and_not_called_constant(using: Kernel) -> None:
    found = of("float64", np.float64(-3.5).tobytes(), using)
    assert (found.mean, found.std, found.norm, found.constant) == (-3.5, 0.0, 3.5, False)
    assert found.quantiles == (-3.5,) * len(QUANTILES)


@both_kernels
def test_values_whose_squares_overflow_give_infinity_and_no_nan(using: Kernel) -> None:
    found = of("float64", np.array([1e300, -1e300] * 9).tobytes(), using)
    assert (found.mean, found.std, found.norm, found.largest) == (0.0, math.inf, math.inf, 1e300)
    assert of("float64", np.array([1e308] * 9).tobytes(), using).mean is None


def test_more_elements_than_a_counter_holds_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhfd_daemon.checkpoints.tally.FLUSH_BYTES", 8)
    data = normal("bfloat16", 999)
    check(of("bfloat16", data, size=1000), doubles("bfloat16", data))


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(CheckpointError, match="complex64: not a type of tensors that is known here: bfloat16, bool"):
        tally("complex64", [])


def test_half_an_element_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="3 bytes are left over behind the last whole float32"):
        tally("float32", [memoryview(b"1234567")])


def test_a_big_endian_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.byteorder", "big")
    kernel.cache_clear()
    try:
        with pytest.raises(CheckpointError, match="little-endian"):
            tally("float32", [])
    finally:
        kernel.cache_clear()


def test_without_a_library_numpy_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "library_path", lambda: "/nonexistent/kernel.so")
    kernel.cache_clear()
    try:
        assert isinstance(kernel(), Numpy)
    finally:
        kernel.cache_clear()
