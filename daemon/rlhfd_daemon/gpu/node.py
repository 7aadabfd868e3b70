"""What can be known of a node's NVIDIA driver from files alone, without loading NVML or waking anything up."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["LIBRARY", "bus_ids", "driver_is_there", "in_first_pid_namespace", "library_is_known", "opens_gpu"]

LIBRARY = "libnvidia-ml.so.1"
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO in the kernel's proc_ns.h
_MAX_CACHE_BYTES = 8 << 20
_MAX_FILES = 4096


def driver_is_there(proc: Path = Path("/proc"), dev: Path = Path("/dev")) -> bool:
    """Whether the driver is loaded. NVML must not be asked before: it may load the driver (nvidia-modprobe), also one
    that somebody has just unloaded. ``/dev/dxg`` is that of WSL."""
    return any(path.exists() for path in (proc / "driver/nvidia/version", dev / "nvidiactl", dev / "dxg"))


def library_is_known(environ: Mapping[str, str] = os.environ, cache: Path = Path("/etc/ld.so.cache")) -> bool:
    """Whether the loader would find NVML, by its cache and search path."""
    folders = environ.get("LD_LIBRARY_PATH", "").split(":")
    if any(folder and Path(folder, LIBRARY).exists() for folder in folders):
        return True
    try:
        with cache.open("rb") as file:
            return LIBRARY.encode() in file.read(_MAX_CACHE_BYTES)
    except OSError:
        return False


def bus_ids(proc: Path = Path("/proc")) -> list[str]:
    """The PCI addresses of the GPUs that the driver has, in NVML's order; empty if the driver does not say."""
    try:
        return sorted(entry.name for entry in (proc / "driver/nvidia/gpus").iterdir())
    except OSError:
        return []


def in_first_pid_namespace(proc: Path = Path("/proc")) -> bool:
    """Whether pids here are those of the host, which is what NVML tells with older drivers."""
    try:
        return os.readlink(proc / "self/ns/pid") == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def opens_gpu(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether the process has a GPU open, as far as we may see."""
    try:
        with os.scandir(proc / str(pid) / "fd") as files:
            some = itertools.islice(files, _MAX_FILES)
            return any(os.readlink(file.path).startswith("/dev/nvidia") for file in some)
    except OSError:
        return False
