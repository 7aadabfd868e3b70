"""What the GPU poller sees, per GPU and, for each observed process, in all."""

from __future__ import annotations

from rlhfd_daemon.metrics.metric import Metric, Unit, observed

__all__ = ["GPU"]

NVML = "NVML"
XID = "NVIDIA, GPU Memory Error Management"


def _gpu(name: str, unit: Unit, meaning: str, *, source: str = "") -> Metric:
    return observed(f"gpu/<n>/{name}", unit, NVML, meaning, source=source)


def _throttle(name: str, meaning: str) -> Metric:
    return _gpu(f"throttle/{name}", "1", f"1 while {meaning}; else 0.")


GPU: tuple[Metric, ...] = (
    _gpu(
        "utilization_ratio", "ratio",
        "Share of the driver's last sample period in which a kernel ran. High says busy, not efficient.",
    ),
    _gpu("memory_utilization_ratio", "ratio", "Share of that period in which memory was read or written."),
    _gpu("memory_total_bytes", "bytes", "Memory of the GPU."),
    _gpu("memory_used_bytes", "bytes", "Memory held by processes; without what the driver keeps for itself."),
    _gpu("memory_free_bytes", "bytes", "Memory that can be had."),
    _gpu("other_processes_bytes", "bytes", "Memory held by processes of no observed run."),
    _gpu("power_watts", "watts", "Power draw, on Ampere and newer the mean of a second."),
    _gpu("power_limit_watts", "watts", "The limit that is enforced."),
    _gpu("temperature_celsius", "celsius", "Temperature of the chip."),
    _gpu("memory_temperature_celsius", "celsius", "Temperature of the HBM."),
    _gpu("sm_clock_hertz", "hertz", "Clock of the multiprocessors."),
    _gpu("memory_clock_hertz", "hertz", "Clock of the memory."),
    _gpu("pcie_tx_bytes_per_second", "bytes_per_second", "Sent over PCIe, sampled for 20 ms, two GPUs a reading."),
    _gpu("pcie_rx_bytes_per_second", "bytes_per_second", "Received over PCIe, sampled like the sent."),
    _gpu("nvlink_tx_bytes_per_second", "bytes_per_second", "Payload sent over all NVLinks since the last reading."),
    _gpu("nvlink_rx_bytes_per_second", "bytes_per_second", "Payload received over all NVLinks since the last reading."),
    _throttle("sw_power_cap", "the clocks are held down by the power limit"),
    _throttle("hw_slowdown", "the hardware halves the clocks or worse: heat, power brake or an electrical fault"),
    _throttle("sync_boost", "the clocks follow another GPU of a sync boost group"),
    _throttle("sw_thermal", "the driver holds the clocks down because of heat"),
    _throttle("hw_thermal", "the hardware holds the clocks down because of heat"),
    _throttle("power_brake", "the power supply asks for less (external power brake)"),
    _gpu("ecc_volatile_corrected_total", "count", "Corrected memory errors since the driver was loaded.", source=XID),
    _gpu(
        "ecc_volatile_uncorrected_total", "count", "Uncorrectable memory errors since the driver was loaded.",
        source=XID,
    ),
    _gpu("ecc_aggregate_corrected_total", "count", "Corrected memory errors of the GPU's life.", source=XID),
    _gpu("ecc_aggregate_uncorrected_total", "count", "Uncorrectable memory errors of the GPU's life.", source=XID),
    _gpu(
        "retired_pages_corrected_total", "count", "Pages retired after corrected errors; before Ampere.", source=XID,
    ),
    _gpu(
        "retired_pages_uncorrected_total", "count", "Pages retired after an uncorrectable error; before Ampere.",
        source=XID,
    ),
    _gpu("retired_pages_pending", "1", "1 if a page is retired with the next reset.", source=XID),
    _gpu("remapped_rows_corrected_total", "count", "Memory rows remapped after corrected errors.", source=XID),
    _gpu("remapped_rows_uncorrected_total", "count", "Memory rows remapped after uncorrectable errors.", source=XID),
    _gpu("remapped_rows_pending", "1", "1 if a row is remapped with the next reset.", source=XID),
    _gpu(
        "remapped_rows_failure", "1", "1 if a row could not be remapped: the GPU has to be replaced.",
        source=XID,
    ),
    _gpu("mig_enabled", "1", "1 if the GPU is divided into MIG instances; the whole has no utilisation then."),
    _gpu("mig/<n>/memory_total_bytes", "bytes", "Memory of a MIG instance."),
    _gpu("mig/<n>/memory_used_bytes", "bytes", "Memory of a MIG instance that is held by processes."),
    _gpu("mig/<n>/memory_free_bytes", "bytes", "Memory of a MIG instance that can be had."),
    observed(
        "process/<role>/gpu_memory_bytes", "bytes", NVML,
        "Memory that a process of the run and its children hold on all GPUs of the node.",
    ),
)  # fmt: skip
