"""Understands what ``/proc`` says about the whole node: CPU, memory, pressure, disks, network. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

__all__ = [
    "CpuTicks", "cpu_ratios", "known", "parse_cpu", "parse_disks", "parse_file_handles", "parse_load", "parse_meminfo",
    "parse_network", "parse_oom_kills", "parse_pressure", "parse_procs_blocked", "ratio",
]  # fmt: skip

SECTOR_BYTES = 512  # in diskstats always, whatever the device says
UNLIMITED = 1 << 62  # what stands for "no limit" is above: 2^63-1, or that in whole pages
_BLOCKED = re.compile(rb"^procs_blocked (\d+)$", re.M)
_OOM_KILLS = re.compile(rb"^oom_kill (\d+)$", re.M)
_PRESSURE = re.compile(rb"^(some|full) avg10=(\d+(?:\.\d+)?) ", re.M)
_MEMINFO = re.compile(rb"^(MemTotal|MemAvailable|SwapTotal|SwapFree): +(\d+) kB$", re.M)


class CpuTicks(NamedTuple):
    """Time of all CPUs since boot, in clock ticks."""

    busy: int
    iowait: int
    idle: int


def known(values: dict[str, float | None]) -> dict[str, float]:
    """``values`` without those that are unknown, all floats as they will be once they were recorded."""
    return {name: float(value) for name, value in values.items() if value is not None}


def ratio(value: float | None) -> float | None:
    """``value`` if it can be a share, up to rounding."""
    if value is None or not -0.001 <= value <= 1.001:
        return None
    return min(max(value, 0.0), 1.0)


def parse_cpu(content: bytes) -> CpuTicks | None:
    """From ``/proc/stat``. Stolen time counts as busy; guests' time is part of user and nice already."""
    line = content[: content.find(b"\n")].split()
    if len(line) < 6 or line[0] != b"cpu":
        return None
    try:
        user, nice, system, idle, iowait, *more = map(int, line[1:])
    except ValueError:
        return None
    return CpuTicks(user + nice + system + sum(more[:3]), iowait, idle)


def cpu_ratios(before: CpuTicks, after: CpuTicks) -> tuple[float | None, float | None]:
    """The busy share and the share of waiting for I/O, of all CPUs. Both are unknown if time did not pass; a counter
    that went back, as iowait may (proc(5)), makes only its own share unknown."""
    busy, iowait, idle = (new - old for new, old in zip(after, before, strict=True))
    total = max(busy, 0) + max(iowait, 0) + max(idle, 0)
    if total <= 0:
        return None, None
    return (None if busy < 0 else busy / total), (None if iowait < 0 else iowait / total)


def parse_procs_blocked(content: bytes) -> int | None:
    """Processes waiting in the kernel (state D), from ``/proc/stat``."""
    return _number(_BLOCKED, content)


def parse_oom_kills(content: bytes) -> int | None:
    """Processes that the kernel has killed for want of memory since boot, from ``/proc/vmstat`` (Linux 4.13), or from
    ``memory.events`` and ``memory.oom_control`` of a control group."""
    return _number(_OOM_KILLS, content)


def parse_meminfo(content: bytes) -> dict[str, float]:
    """``total``, ``available`` and ``swap_used``, in bytes. What is more than there is at all is left out: containers'
    emulations of this file have shown that."""
    read = {name: int(value) * 1024 for name, value in _MEMINFO.findall(content)}
    total, available = read.get(b"MemTotal"), read.get(b"MemAvailable")
    swap, swap_free = read.get(b"SwapTotal"), read.get(b"SwapFree")
    return known({
        "total": total or None,
        "available": None if available is None or (total or 0) < available else available,
        "swap_used": None if swap is None or swap_free is None or swap < swap_free else swap - swap_free,
    })  # fmt: skip


def parse_pressure(content: bytes) -> dict[str, float]:
    """Share of the last 10 s in which ``some`` or all (``full``) tasks waited for a resource: ``/proc/pressure/*``."""
    shares = {kind.decode(): ratio(float(percent) / 100) for kind, percent in _PRESSURE.findall(content)}
    return known(shares)


def parse_load(content: bytes) -> float | None:
    """The mean of the last minute, from ``/proc/loadavg``."""
    try:
        return float(content.split()[0])
    except (IndexError, ValueError):
        return None


def parse_file_handles(content: bytes) -> tuple[int | None, int | None]:
    """Open files of the whole node and their limit, from ``/proc/sys/fs/file-nr``."""
    try:
        allocated, unused, limit = map(int, content.split())
    except ValueError:
        return None, None
    return (allocated - unused if allocated >= unused else None), (limit if 0 < limit < UNLIMITED else None)


def parse_disks(content: bytes, counts: Callable[[str], bool]) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes read and written since boot by device, of the devices that ``counts`` says yes to: ``/proc/diskstats``."""
    read, written = {}, {}
    for fields in map(bytes.split, content.splitlines()):
        if len(fields) >= 10 and counts(name := fields[2].decode("utf-8", "replace")):
            read[name], written[name] = int(fields[5]) * SECTOR_BYTES, int(fields[9]) * SECTOR_BYTES
    return read, written


def parse_network(content: bytes, counts: Callable[[str], bool]) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes received and sent since boot by interface, of those that ``counts`` says yes to: ``/proc/net/dev``."""
    received, sent = {}, {}
    for line in content.splitlines()[2:]:
        name, _, rest = line.decode("utf-8", "replace").rpartition(":")
        fields = rest.split()
        if len(fields) >= 9 and counts(name := name.strip()):
            received[name], sent[name] = int(fields[0]), int(fields[8])
    return received, sent


def _number(pattern: re.Pattern[bytes], content: bytes) -> int | None:
    found = pattern.search(content)
    return None if found is None else int(found.group(1))
