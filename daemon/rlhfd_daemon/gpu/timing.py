"""When to read the GPUs and when to try again: pure decisions."""

from __future__ import annotations

__all__ = ["backoff_seconds", "pause_seconds"]

CPU_SHARE = 0.005
CALL_SHARE = 0.05  # of the time in calls: NVML takes locks that CUDA also wants
MAX_PAUSE_SECONDS = 300.0
MAX_BACKOFF_SECONDS = 60.0


def backoff_seconds(failures: int) -> float:
    """1, 2, 4, ... 60 seconds after so many failures in a row."""
    return min(MAX_BACKOFF_SECONDS, 2.0 ** min(max(failures - 1, 0), 16))


def pause_seconds(interval: float, call_seconds: float, cpu_seconds: float, chance: float) -> float:
    """From the end of a reading to the next: longer than ``interval`` if the reading took long or cost much, up to a
    tenth more by ``chance`` (0 to 1), so that nodes do not keep step."""
    wanted = max(interval, call_seconds / CALL_SHARE, cpu_seconds / CPU_SHARE)
    return min(max(MAX_PAUSE_SECONDS, interval), wanted) * (1.0 + 0.1 * chance)
