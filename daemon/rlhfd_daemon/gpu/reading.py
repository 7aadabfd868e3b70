"""What the child says, as types, and what of it can be true: raw NVML values to metrics in SI base units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

__all__ = [
    "BOUNDS", "RATES", "THROTTLE", "Bounds", "Described", "End", "Failure", "GpuRead", "Hello", "Message", "MigRead",
    "Opened", "Previous", "Read", "Xid", "decode", "metrics",
]  # fmt: skip


class Hello(msgspec.Struct, frozen=True):
    """Said once to a new child. ``refused``: (GPU, call, seconds for which it is not to be asked again); ``bus_ids``:
    the PCI addresses of the GPUs in order; ``pci_devices``: the kernel's folder of them; ``events``: whether to wait
    for XIDs."""

    refused: list[tuple[int, str, float]]
    bus_ids: list[str]
    pci_devices: str
    events: bool


class Read(msgspec.Struct, frozen=True):
    """Asks for one reading; the GPUs in ``skip`` are left alone."""

    skip: list[int]


class Opened(msgspec.Struct, frozen=True, tag="open"):
    """NVML has been initialised."""

    driver: str


class Described(msgspec.Struct, frozen=True, tag="device"):
    """A GPU is met for the first time. ``bus_id`` as NVML writes it."""

    index: int
    uuid: str
    name: str
    bus_id: str


class MigRead(msgspec.Struct, frozen=True):
    """One MIG instance of a GPU."""

    index: int
    values: dict[str, float | None]
    processes: list[tuple[int, int | None]] | None


class GpuRead(msgspec.Struct, frozen=True, tag="gpu"):
    """One GPU: ``values`` in NVML's units, ``processes`` as (pid, bytes), or ``error`` if it cannot be read."""

    index: int
    error: str = ""
    values: dict[str, float | None] = {}
    processes: list[tuple[int, int | None]] | None = None
    mig: list[MigRead] = []


class End(msgspec.Struct, frozen=True, tag="end"):
    """A reading is complete. ``seconds`` were spent in NVML, ``cpu_seconds`` of processor time by the child."""

    count: int
    asleep: list[int]
    refused: list[tuple[int, str]]
    seconds: float
    cpu_seconds: float


class Xid(msgspec.Struct, frozen=True, tag="xid"):
    """The driver has reported an error; ``index`` -1 if NVML did not say of which GPU."""

    index: int
    uuid: str
    xid: int


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """NVML, or the child, cannot go on; it ends."""

    error: str
    detail: str = ""


Message = Opened | Described | GpuRead | End | Xid | Failure
_decoder = msgspec.json.Decoder(Opened | Described | GpuRead | End | Xid | Failure)


def decode(line: bytes) -> Message:
    """:raises msgspec.MsgspecError: the line is no message."""
    message: Message = _decoder.decode(line)
    return message


class Bounds(NamedTuple):
    """What a raw value may be, both ends included, and how it becomes ``metric``: times ``factor``."""

    metric: str
    factor: float
    low: float
    high: float


_TIB = float(1 << 40)
# A value outside is a sentinel or nonsense and becomes absent: 0xFFFFFFFF and 2^64-1 are NVML's NOT_AVAILABLE,
# 0x7FFFFFF0 and 9223372036854775794 DCGM's blanks (dcgm-exporter's README shows one as a temperature), 7626516 % was
# seen by netdata#6511. A temperature or power of exactly 0 is what boards without the sensor say. The ends are well
# beyond today's largest devices (GB300: 1400 W, 288 GB).
BOUNDS: dict[str, Bounds] = {
    "utilization": Bounds("utilization_ratio", 0.01, 0, 100),
    "memory_utilization": Bounds("memory_utilization_ratio", 0.01, 0, 100),
    "memory_total": Bounds("memory_total_bytes", 1, 1, 16 * _TIB),
    "memory_used": Bounds("memory_used_bytes", 1, 0, 16 * _TIB),
    "memory_free": Bounds("memory_free_bytes", 1, 0, 16 * _TIB),
    "power_mw": Bounds("power_watts", 1e-3, 1, 10e6),
    "power_limit_mw": Bounds("power_limit_watts", 1e-3, 1, 10e6),
    "temperature": Bounds("temperature_celsius", 1, 1, 150),
    "memory_temperature": Bounds("memory_temperature_celsius", 1, 1, 150),
    "sm_clock_mhz": Bounds("sm_clock_hertz", 1e6, 0, 10e3),
    "memory_clock_mhz": Bounds("memory_clock_hertz", 1e6, 0, 50e3),
    "pcie_tx_kb": Bounds("pcie_tx_bytes_per_second", 1e3, 0, 1e9),
    "pcie_rx_kb": Bounds("pcie_rx_bytes_per_second", 1e3, 0, 1e9),
    "mig_mode": Bounds("mig_enabled", 1, 0, 1),
    "ecc_volatile_corrected": Bounds("ecc_volatile_corrected_total", 1, 0, 1e9),
    "ecc_volatile_uncorrected": Bounds("ecc_volatile_uncorrected_total", 1, 0, 1e9),
    "ecc_aggregate_corrected": Bounds("ecc_aggregate_corrected_total", 1, 0, 1e9),
    "ecc_aggregate_uncorrected": Bounds("ecc_aggregate_uncorrected_total", 1, 0, 1e9),
    "retired_corrected": Bounds("retired_pages_corrected_total", 1, 0, 1e6),
    "retired_uncorrected": Bounds("retired_pages_uncorrected_total", 1, 0, 1e6),
    "retired_pending": Bounds("retired_pages_pending", 1, 0, 1),
    "remapped_corrected": Bounds("remapped_rows_corrected_total", 1, 0, 1e6),
    "remapped_uncorrected": Bounds("remapped_rows_uncorrected_total", 1, 0, 1e6),
    "remapped_pending": Bounds("remapped_rows_pending", 1, 0, 1),
    "remapped_failure": Bounds("remapped_rows_failure", 1, 0, 1),
}
# Counters of which the rate is told. NVML counts NVLink in KiB, on Blackwell in bytes. ``high`` is that of the rate.
RATES: dict[str, Bounds] = {
    "nvlink_tx_kib": Bounds("nvlink_tx_bytes_per_second", 1024, 0, 1e13),
    "nvlink_rx_kib": Bounds("nvlink_rx_bytes_per_second", 1024, 0, 1e13),
    "nvlink_tx_bytes": Bounds("nvlink_tx_bytes_per_second", 1, 0, 1e13),
    "nvlink_rx_bytes": Bounds("nvlink_rx_bytes_per_second", 1, 0, 1e13),
}
_COUNTERS = {raw for raw, bounds in BOUNDS.items() if bounds.metric.endswith("_total")}
_MAX_COUNTER = float(1 << 62)
# nvml.h, nvmlClocksEventReason*. Idle, application clocks and display clocks hold nobody up.
THROTTLE = {
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "power_brake": 0x80,
}
_REASONS = 0xFFFFF  # of the bits known today the highest is 0x400


class Previous(msgspec.Struct, frozen=True):
    """What the reading before said of one GPU: its counters, and when (monotonic seconds)."""

    counters: dict[str, float] = {}
    read_at: float = 0.0


def metrics(values: Mapping[str, float | None], previous: Previous | None) -> tuple[dict[str, float], Previous]:
    """The metrics of one GPU by their last name part, and what the next reading is to be compared with.

    What NVML does not tell, or what cannot be true, is absent. A counter that went back (driver reload, reset, wrap)
    is absent once and counted from its new value.
    """
    before = previous or Previous()
    found = dict(_plain(values, before))
    if "memory_total_bytes" in found:
        for name in ("memory_used_bytes", "memory_free_bytes"):
            if found.get(name, 0.0) > found["memory_total_bytes"]:
                del found[name]
    found.update(_rates(values, before))
    reasons = values.get("clock_reasons")
    if reasons is not None and 0 <= reasons <= _REASONS:
        found.update({f"throttle/{name}": float(bool(int(reasons) & bit)) for name, bit in THROTTLE.items()})
    read_at = values.get("read_at")
    counters = {name: value for name, value in values.items() if value is not None and _is_count(name, value)}
    kept = {name: value for name, value in before.counters.items() if name in _COUNTERS}
    return found, Previous({**kept, **counters}, before.read_at if read_at is None else read_at)


def _is_count(name: str, value: float) -> bool:
    high = BOUNDS[name].high if name in _COUNTERS else _MAX_COUNTER
    return (name in _COUNTERS or name in RATES) and 0 <= value <= high


def _plain(values: Mapping[str, float | None], before: Previous) -> Iterator[tuple[str, float]]:
    for raw, bounds in BOUNDS.items():
        value = values.get(raw)
        if value is None or not bounds.low <= value <= bounds.high:
            continue
        if raw in _COUNTERS and value < before.counters.get(raw, 0.0):
            continue
        yield bounds.metric, value * bounds.factor


def _rates(values: Mapping[str, float | None], before: Previous) -> Iterator[tuple[str, float]]:
    seconds = (values.get("read_at") or 0.0) - before.read_at
    for raw, bounds in RATES.items():
        value, last = values.get(raw), before.counters.get(raw)
        if value is None or last is None or seconds <= 0 or not _is_count(raw, value) or value < last:
            continue
        rate = (value - last) * bounds.factor / seconds
        if rate <= bounds.high:
            yield bounds.metric, rate
