"""What is asked of NVML, in the child process only: raw values in NVML's units, nothing is judged here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pynvml

from rlhfd_daemon.gpu.progress import NO_GPU, ProgressSlot

__all__ = ["PCIE_GPUS_A_TURN", "Asker", "Device", "error_name", "read_device"]

REFUSED_SECONDS = 3600.0
SLOW_SECONDS = 60.0
PCIE_GPUS_A_TURN = 2  # each costs two calls of 20 ms, in which the driver samples
NVLINKS = 18  # NVML_NVLINK_MAX_LINKS
ALL_LINKS = 0xFFFFFFFF  # nvml.h: the sum over all links

# What will not be different a moment later. Asked again after an hour, or once driver or devices have changed.
_REFUSALS = {
    pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH, pynvml.NVML_ERROR_DEPRECATED,
}  # fmt: skip
# What is the matter with the whole GPU, and with NVML as a whole.
GPU_ERRORS = {pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_GPU_NOT_FOUND}
LIBRARY_ERRORS = {
    pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
}  # fmt: skip

_FAST_FIELDS = {
    "memory_temperature": (pynvml.NVML_FI_DEV_MEMORY_TEMP, 0),
    "nvlink_tx_kib": (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, ALL_LINKS),
    "nvlink_rx_kib": (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, ALL_LINKS),
}
# Blackwell counts bytes per link instead.
_LINK_FIELDS = {
    "nvlink_tx_bytes": pynvml.NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES,
    "nvlink_rx_bytes": pynvml.NVML_FI_DEV_NVLINK_COUNT_RCV_BYTES,
}
_SLOW_FIELDS = {
    "retired_corrected": (pynvml.NVML_FI_DEV_RETIRED_SBE, 0),
    "retired_uncorrected": (pynvml.NVML_FI_DEV_RETIRED_DBE, 0),
    "retired_pending": (pynvml.NVML_FI_DEV_RETIRED_PENDING, 0),
}
_ECC = {
    "ecc_volatile_corrected": (pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_VOLATILE_ECC),
    "ecc_volatile_uncorrected": (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC),
    "ecc_aggregate_corrected": (pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_AGGREGATE_ECC),
    "ecc_aggregate_uncorrected": (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_AGGREGATE_ECC),
}
_VALUE_MEMBER = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
}


def error_name(error: pynvml.NVMLError) -> str:
    """``GpuIsLost`` for NVML_ERROR_GPU_IS_LOST; ``Code77`` for a code that the binding does not know."""
    name = type(error).__name__.removeprefix("NVMLError_")
    return f"Code{error.value}" if name == "NVMLError" else name


class Asker:
    """Every call of one thread to NVML goes through here: announced, timed, and not repeated where it was refused.

    ``refused`` maps (GPU, call with its arguments) to the monotonic time until which it is not asked again.
    """

    def __init__(self, progress: ProgressSlot, clock: Callable[[], float] = time.monotonic) -> None:
        self.refused: dict[tuple[int, str], float] = {}
        self.newly_refused: list[tuple[int, str]] = []
        self.seconds = 0.0
        self.answers = 0
        self.last_error = ""
        self.part = ""  # of the GPU, where a part may refuse what the whole does not: a MIG instance
        self._progress = progress
        self._clock = clock

    def call(self, function: Callable[..., Any], *args: object, gpu: int = NO_GPU) -> Any:
        """What NVML answers. :raises pynvml.NVMLError: whatever it says instead."""
        began = self._clock()
        self._progress.begin(function.__name__, gpu)
        try:
            return function(*args)
        finally:
            self._progress.end()
            self.seconds += self._clock() - began

    def ask(self, gpu: int, function: Callable[..., Any], handle: object, *args: object) -> Any:
        """The answer, or ``None`` where there is none. :raises pynvml.NVMLError: the GPU or NVML itself is gone."""
        key = (gpu, "/".join([self.part + function.__name__, *map(str, args)]))
        if self.is_refused(key):
            return None
        try:
            answer = self.call(function, handle, *args, gpu=gpu)
        except pynvml.NVMLError as error:
            if error.value in GPU_ERRORS | LIBRARY_ERRORS:
                raise
            self.last_error = error_name(error)
            if error.value in _REFUSALS:
                self.refuse(key)
            return None
        self.answers += 1
        return answer

    def is_refused(self, key: tuple[int, str]) -> bool:
        return self.refused.get(key, 0.0) > self._clock()

    def refuse(self, key: tuple[int, str]) -> None:
        self.refused[key] = self._clock() + REFUSED_SECONDS
        self.newly_refused.append(key)

    def fields(self, gpu: int, handle: object, wanted: dict[str, tuple[int, int]]) -> dict[str, float]:
        """Field values by the names given for (field, scope); those that NVML has not are left out."""
        keys = {name: (gpu, f"field/{field}/{scope}") for name, (field, scope) in wanted.items()}
        names = [name for name in wanted if not self.is_refused(keys[name])]
        found: dict[str, float] = {}
        answers = self.ask(gpu, pynvml.nvmlDeviceGetFieldValues, handle, [wanted[n] for n in names]) if names else None
        for name, answer in zip(names, answers or (), strict=False):
            if answer.nvmlReturn in _REFUSALS:
                self.refuse(keys[name])
            elif answer.nvmlReturn == pynvml.NVML_SUCCESS and answer.valueType in _VALUE_MEMBER:
                found[name] = getattr(answer.value, _VALUE_MEMBER[answer.valueType])
        return found


class Device:
    """One GPU that NVML has given a handle for."""

    def __init__(self, asker: Asker, index: int) -> None:
        self.index = index
        self.handle = asker.call(pynvml.nvmlDeviceGetHandleByIndex, index, gpu=index)
        self.uuid: str = asker.ask(index, pynvml.nvmlDeviceGetUUID, self.handle) or ""
        self.name: str = asker.ask(index, pynvml.nvmlDeviceGetName, self.handle) or ""
        pci = asker.ask(index, pynvml.nvmlDeviceGetPciInfo, self.handle)
        bus_id = "" if pci is None else pci.busId
        self.bus_id: str = bus_id.decode("ascii", "replace") if isinstance(bus_id, bytes) else bus_id
        self.slow_at = -SLOW_SECONDS

    def describe(self) -> dict[str, object]:
        return {"index": self.index, "uuid": self.uuid, "name": self.name, "bus_id": self.bus_id}


def read_device(asker: Asker, device: Device, now: float, pcie: bool) -> dict[str, object]:
    """Everything that one GPU tells. :raises pynvml.NVMLError: it is lost, must be reset, or answers nothing at all."""
    asker.answers, asker.last_error, asker.part = 0, "", ""
    values = dict(_fast(asker, device))
    values.update(_links(asker, device))
    values["read_at"] = time.monotonic()
    if pcie:
        for name, counter in (("pcie_tx_kb", 0), ("pcie_rx_kb", 1)):
            values[name] = asker.ask(device.index, pynvml.nvmlDeviceGetPcieThroughput, device.handle, counter)
    if now - device.slow_at >= SLOW_SECONDS:
        device.slow_at = now
        values.update(_slow(asker, device))
    processes = _processes(asker, device.index, device.handle)
    mig = list(_mig(asker, device, values)) if values.get("mig_mode") else []
    asker.part = ""
    error = asker.last_error if not asker.answers else ""
    return {"values": values, "processes": processes, "mig": mig, "error": error}


def _fast(asker: Asker, device: Device) -> Iterator[tuple[str, Any]]:
    index, handle = device.index, device.handle
    rates = asker.ask(index, pynvml.nvmlDeviceGetUtilizationRates, handle)
    if rates is not None:
        yield "utilization", rates.gpu
        yield "memory_utilization", rates.memory
    yield from _memory(asker, index, handle)
    yield "power_mw", asker.ask(index, pynvml.nvmlDeviceGetPowerUsage, handle)
    celsius = asker.ask(index, pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    if celsius is None:  # removed in CUDA 14
        celsius = asker.ask(index, pynvml.nvmlDeviceGetTemperatureV, handle, pynvml.NVML_TEMPERATURE_GPU)
    yield "temperature", celsius
    yield "sm_clock_mhz", asker.ask(index, pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM)
    yield "memory_clock_mhz", asker.ask(index, pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM)
    reasons = asker.ask(index, pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if reasons is None:  # drivers before 535
        reasons = asker.ask(index, pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    yield "clock_reasons", reasons
    mig = asker.ask(index, pynvml.nvmlDeviceGetMigMode, handle)
    if mig is not None:
        yield "mig_mode", mig[0]
        yield "mig_mode_pending", mig[1]
    yield from asker.fields(index, handle, _FAST_FIELDS).items()


def _memory(asker: Asker, index: int, handle: object) -> Iterator[tuple[str, Any]]:
    """Version 2 does not count what the driver reserves as used; as nvidia-smi does."""
    memory = asker.ask(index, pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    if memory is None:
        memory = asker.ask(index, pynvml.nvmlDeviceGetMemoryInfo, handle)
    if memory is not None:
        yield "memory_total", memory.total
        yield "memory_used", memory.used
        yield "memory_free", memory.free


def _links(asker: Asker, device: Device) -> dict[str, float]:
    if not asker.is_refused((device.index, f"field/{_FAST_FIELDS['nvlink_tx_kib'][0]}/{ALL_LINKS}")):
        return {}
    wanted = {f"{name}/{link}": (field, link) for name, field in _LINK_FIELDS.items() for link in range(NVLINKS)}
    found = asker.fields(device.index, device.handle, wanted)
    sums: dict[str, float] = {}
    for name, value in found.items():
        total = name.partition("/")[0]
        sums[total] = sums.get(total, 0) + value
    return sums


def _slow(asker: Asker, device: Device) -> Iterator[tuple[str, Any]]:
    index, handle = device.index, device.handle
    yield "power_limit_mw", asker.ask(index, pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    for name, (error, counter) in _ECC.items():
        yield name, asker.ask(index, pynvml.nvmlDeviceGetTotalEccErrors, handle, error, counter)
    rows = asker.ask(index, pynvml.nvmlDeviceGetRemappedRows, handle)
    names = ("remapped_corrected", "remapped_uncorrected", "remapped_pending", "remapped_failure")
    yield from zip(names, rows or (), strict=False)
    yield from asker.fields(index, handle, _SLOW_FIELDS).items()


def _processes(asker: Asker, index: int, handle: object) -> list[tuple[int, int | None]] | None:
    """(pid, bytes) of each process with memory on the GPU; ``None`` if NVML does not tell."""
    found = asker.ask(index, pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle)
    if found is None:  # drivers before 510
        found = asker.ask(index, pynvml.nvmlDeviceGetComputeRunningProcesses_v2, handle)
    return None if found is None else [(process.pid, process.usedGpuMemory) for process in found]


def _mig(asker: Asker, device: Device, values: dict[str, Any]) -> Iterator[dict[str, object]]:
    count = asker.ask(device.index, pynvml.nvmlDeviceGetMaxMigDeviceCount, device.handle) or 0
    for number in range(min(count, 8)):
        asker.part = ""
        with contextlib.suppress(pynvml.NVMLError_NotFound, pynvml.NVMLError_InvalidArgument):
            # An empty place is no refusal: the next instance may be made any moment.
            mig = asker.call(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, device.handle, number, gpu=device.index)
            asker.part = f"mig{number}:"
            memory = dict(_memory(asker, device.index, mig))
            yield {"index": number, "values": memory, "processes": _processes(asker, device.index, mig)}
