"""GPU telemetry: NVML is asked by a process of its own (child, nvml), which the daemon watches (process, reading)."""
