"""The configuration sections of the pollers that look at the host."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["DisksConfig", "HostConfig", "ProcessesConfig", "RayConfig"]

_PollInterval = Annotated[float, Meta(ge=0.5, le=3600)]


class HostConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """CPU, memory, pressure, disk and network traffic of the node, and its clocks."""

    enabled: bool = True
    interval_seconds: _PollInterval = 5.0


class ProcessesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Memory, CPU and open files of each process of a run, and what the kernel killed for want of memory."""

    enabled: bool = True
    interval_seconds: _PollInterval = 5.0


class DisksConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Free space where the daemon and the runs write. A file system that does not answer for
    ``stuck_after_seconds`` is reported as stuck."""

    enabled: bool = True
    interval_seconds: _PollInterval = 30.0
    stuck_after_seconds: Annotated[float, Meta(ge=1, le=3600)] = 10.0


class RayConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which methods Ray's actors run, sampled every ``sample_seconds``, and the object store. An actor in whose process
    no emitter has spoken for ``unobserved_after_seconds`` is reported under the name of its class."""

    enabled: bool = True
    interval_seconds: _PollInterval = 5.0
    sample_seconds: Annotated[float, Meta(ge=0.1, le=60)] = 0.5
    unobserved_after_seconds: Annotated[float, Meta(ge=0, le=3600)] = 30.0
