"""What of NVML's raw values can be true, in which unit; when to read again."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_daemon.gpu.process import Patience
from rlhfd_daemon.gpu.reading import BOUNDS, RATES, THROTTLE, End, Failure, Previous, decode, metrics
from rlhfd_daemon.gpu.release import Release
from rlhfd_daemon.gpu.timing import backoff_seconds, pause_seconds
from rlhfd_daemon.gpu.xid import XIDS, meaning
from rlhfd_daemon.metrics import lookup

U32, U64, BLANK32, BLANK64 = 0xFFFFFFFF, (1 << 64) - 1, 0x7FFFFFF0, 9223372036854775794
MEMORY = ("memory_total", "memory_used", "memory_free")
SENTINELS = (U32, U64, BLANK32, BLANK64, 9.2e18, -1, -2147483648)


@pytest.mark.parametrize(
    ("raw", "value", "metric", "expected"),
    [
        ("utilization", 37, "utilization_ratio", 0.37),
        ("memory_utilization", 100, "memory_utilization_ratio", 1.0),
        ("memory_total", 85899345920, "memory_total_bytes", 85899345920),
        ("power_mw", 345678, "power_watts", 345.678),
        ("power_limit_mw", 700000, "power_limit_watts", 700),
        ("temperature", 64, "temperature_celsius", 64),
        ("sm_clock_mhz", 1980, "sm_clock_hertz", 1.98e9),
        ("pcie_tx_kb", 2048, "pcie_tx_bytes_per_second", 2048e3),
        ("ecc_volatile_uncorrected", 2, "ecc_volatile_uncorrected_total", 2),
        ("remapped_pending", 1, "remapped_rows_pending", 1),
    ],
)
def test_values_come_in_base_units(raw: str, value: float, metric: str, expected: float) -> None:
    found, _ = metrics({raw: value}, None)
    assert found == {metric: pytest.approx(expected)}


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        *itertools.product([raw for raw in BOUNDS if raw not in MEMORY], SENTINELS),
        *itertools.product(MEMORY, (U64, BLANK64, -1)),  # where 4 GiB less one byte is a value
        *[(raw, None) for raw in BOUNDS],
        ("utilization", 7626516), ("utilization", 101), ("temperature", 9.2e18), ("temperature", 0),
        ("temperature", 151), ("power_mw", 0), ("power_mw", 4294967295), ("memory_total", 0), ("mig_mode", 2),
    ],
)  # fmt: skip
def test_promise_F5_sentinels_and_absurd_values_are_absent(raw: str, value: float | None) -> None:
    found, _ = metrics({raw: value}, None)
    assert found == {}


@pytest.mark.parametrize("raw", [raw for raw, bounds in BOUNDS.items() if bounds.metric.endswith("_total")])
def test_promise_F5_a_counter_that_goes_back_is_absent_once_and_then_counted_from_there(raw: str) -> None:
    name, previous, seen = BOUNDS[raw].metric, None, []
    for value in (5, 7, 3, 3, 4, U64, 5):
        found, previous = metrics({raw: value}, previous)
        seen.append(found.get(name))
    assert seen == [5, 7, None, 3, 4, None, 5]


@pytest.mark.parametrize("raw", RATES)
def test_promise_F5_a_rate_is_never_negative_nor_made_of_a_sentinel(raw: str) -> None:
    name, factor, previous, seen = RATES[raw].metric, RATES[raw].factor, None, []
    for second, value in enumerate((1000, 3000, 500, 1500, U64, 2500, None, 4500, 5000)):
        found, previous = metrics({raw: value, "read_at": 100.0 + second}, previous)
        seen.append(None if name not in found else found[name] / factor)
    assert seen == [None, 2000, None, 1000, None, None, None, None, 500]


def test_promise_F5_an_impossible_rate_is_absent() -> None:
    _, previous = metrics({"nvlink_tx_kib": 0, "read_at": 1.0}, None)
    assert "nvlink_tx_bytes_per_second" not in metrics({"nvlink_tx_kib": 1 << 40, "read_at": 2.0}, previous)[0]


def test_a_rate_needs_time_between_two_values() -> None:
    _, previous = metrics({"nvlink_tx_kib": 10, "read_at": 5.0}, None)
    assert metrics({"nvlink_tx_kib": 20, "read_at": 5.0}, previous)[0] == {}
    assert metrics({"nvlink_tx_kib": 20}, previous)[0] == {}


def test_more_memory_used_than_there_is_is_absent() -> None:
    found, _ = metrics({"memory_total": 100, "memory_used": 101, "memory_free": 40}, None)
    assert found == {"memory_total_bytes": 100, "memory_free_bytes": 40}


def test_throttle_reasons_are_told_one_by_one() -> None:
    found, _ = metrics({"clock_reasons": 0x4 | 0x40 | 0x1}, None)
    assert {name for name, value in found.items() if value} == {"throttle/sw_power_cap", "throttle/hw_thermal"}
    assert set(found) == {f"throttle/{name}" for name in THROTTLE}
    assert metrics({"clock_reasons": U64}, None)[0] == {}


def test_every_metric_has_a_row_in_the_table() -> None:
    names = {bounds.metric for bounds in (BOUNDS | RATES).values()} | {f"throttle/{name}" for name in THROTTLE}
    for name in (*names, "other_processes_bytes", "mig/0/memory_used_bytes"):
        assert lookup(f"gpu/3/{name}") is not None, name
    assert lookup("process/PolicyModelActor-0/gpu_memory_bytes") is not None


@given(
    st.dictionaries(
        st.sampled_from([*BOUNDS, *RATES, "clock_reasons", "read_at"]),
        st.none() | st.integers(-(1 << 64), 1 << 65) | st.floats(),
    ),
    st.dictionaries(st.sampled_from([*BOUNDS, *RATES]), st.floats(0, 1e18)),
)
def test_whatever_nvml_says_gives_finite_values_within_bounds(
    values: dict[str, float | None], counters: dict[str, float]
) -> None:
    found, previous = metrics(values, Previous(counters, 1.0))
    highest = {bounds.metric: bounds.high * (bounds.factor if bounds in BOUNDS.values() else 1)
               for bounds in (BOUNDS | RATES).values()}  # fmt: skip
    for name, value in found.items():
        assert math.isfinite(value)
        assert 0 <= value <= highest.get(name, 1.0)
    msgspec.json.encode(previous)


@given(st.binary(max_size=200))
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(line)


def test_messages_of_every_kind_are_understood() -> None:
    end = {"type": "end", "count": 1, "asleep": [], "refused": [[0, "f"]], "seconds": 0.1, "cpu_seconds": 0.0}
    assert decode(json.dumps(end).encode()) == End(1, [], [(0, "f")], 0.1, 0.0)
    assert decode(b'{"type":"failure","error":"GpuIsLost"}') == Failure("GpuIsLost")


@pytest.mark.parametrize(
    ("call_seconds", "cpu_seconds", "expected"),
    [(0.001, 0.001, 5.0), (0.0, 0.05, 10.0), (1.0, 0.0, 20.0), (1000.0, 1.0, 300.0), (0.2, 0.024, 5.0)],
)
def test_promise_F4_slow_or_costly_readings_are_made_less_often(
    call_seconds: float, cpu_seconds: float, expected: float
) -> None:
    assert pause_seconds(5.0, call_seconds, cpu_seconds, 0.0) == pytest.approx(expected)
    assert pause_seconds(5.0, call_seconds, cpu_seconds, 1.0) == pytest.approx(expected * 1.1)


@given(st.floats(1, 3600), st.floats(0, 14), st.floats(0, 1.4), st.floats(0, 1))
def test_promise_F4_no_reading_costs_more_than_half_a_percent(
    interval: float, calls: float, cpu: float, chance: float
) -> None:
    pause = pause_seconds(interval, calls, cpu, chance)
    assert pause >= interval
    assert cpu <= 0.005 * pause * 1.0001
    assert pause > calls


def test_retries_wait_longer_and_longer_up_to_a_minute() -> None:
    assert [backoff_seconds(n) for n in (1, 2, 3, 6, 7, 100_000)] == [1, 2, 4, 32, 60, 60]


def test_an_xid_s_meaning_tells_hardware_from_application() -> None:
    assert [meaning(xid).critical for xid in (13, 31, 43, 45)] == [False] * 4
    assert [meaning(xid).critical for xid in (48, 64, 74, 79, 95, 119, 140)] == [True] * 7
    assert "catalogue" in meaning(999_999).text
    assert all(one.text for one in XIDS.values())


def test_a_thread_without_progress_is_blamed_only_for_time_that_somebody_watched() -> None:
    patience = Patience()
    assert [patience.look(1, now) for now in (10.0, 11.0, 12.0)] == [0.0, 1.0, 2.0]
    assert patience.look(1, 1000.0) == 4.0  # the machine slept: two seconds, not 988
    assert patience.look(2, 1001.0) == 0.0


def test_a_release_is_remembered_and_rubbish_is_not_one(tmp_path: Path) -> None:
    Release(tmp_path).begin(1e9)
    assert Release(tmp_path).is_on(1e9 - 1)
    assert not Release(tmp_path).is_on(1e9)
    Release(tmp_path).begin(math.inf)
    assert Release(tmp_path).is_on(1e18)
    Release(tmp_path).end()
    Release(tmp_path).end()
    assert Release(tmp_path).until is None
    for rubbish in ("", "soon", "nan"):
        (tmp_path / "gpu-released-until").write_text(rubbish)
        assert Release(tmp_path).until is None
