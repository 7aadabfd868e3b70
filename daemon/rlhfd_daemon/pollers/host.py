"""The node itself: CPU, memory, pressure, traffic of disks and network, open files, and steps of its clocks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from rlhfd_daemon import cgroup, nodefs, procfs
from rlhfd_daemon.clocks import Clocks, changes, read_clocks
from rlhfd_daemon.config_host import HostConfig
from rlhfd_daemon.infiniband import InfiniBand
from rlhfd_daemon.nodefs import known, ratio
from rlhfd_daemon.observation import Observation, node
from rlhfd_daemon.probe import Prober
from rlhfd_daemon.rates import Rates
from rlhfd_daemon.refusals import Refusals

__all__ = ["HostPoller"]

# What is about one resource is in one file of /proc/pressure. For the whole node "full" of the CPU says nothing.
PRESSURES = {"cpu": ("some",), "memory": ("some", "full"), "io": ("some", "full")}


class HostPoller:
    """Reads a dozen small files. ``proc``, ``sys`` and ``shm`` are where those are mounted."""

    name = "host"

    def __init__(
        self,
        config: HostConfig,
        *,
        proc: Path = procfs.PROC,
        sys: Path = Path("/sys"),
        shm: Path = Path("/dev/shm"),
        clocks: Callable[[], Clocks] = read_clocks,
    ) -> None:
        self.interval_seconds = config.interval_seconds
        self._proc, self._sys, self._shm = proc, sys, shm
        self._clocks = clocks
        self._before: Clocks | None = None
        self._cpu: nodefs.CpuTicks | None = None
        self._rates = Rates()
        self._refusals = Refusals()
        self._physical: dict[str, bool] = {}
        self._prober = Prober()
        self._infiniband = InfiniBand(sys, self._prober)
        self._groups = _groups_of_node(proc)

    async def poll(self, now: float) -> Iterable[Observation]:
        clocks = self._clocks()
        before, self._before = self._before, clocks
        events = {} if before is None else changes(before, clocks)
        found = [Observation(subject=node(), event=event, fields=fields) for event, fields in events.items()]
        metrics = {**self._metrics(clocks.mono), **await self._infiniband.poll(clocks.mono)}
        if metrics:
            found.append(Observation(subject=node(), metrics=metrics))
        return found

    async def stop(self) -> None:
        self._prober.stop()

    def _metrics(self, now: float) -> dict[str, float]:
        parts = (self._processor(now), self._memory(now), self._pressure(now), self._traffic(now), self._files(now))
        return known({name: value for part in parts for name, value in part.items()})

    def _read(self, path: str, now: float) -> bytes:
        return self._refusals.read(f"{self._proc}/{path}", now)

    def _processor(self, now: float) -> dict[str, float | None]:
        content = self._read("stat", now)
        before, self._cpu = self._cpu, nodefs.parse_cpu(content)
        busy, iowait = nodefs.cpu_ratios(before, self._cpu) if before and self._cpu else (None, None)
        return {
            "host/cpu_ratio": ratio(busy),
            "host/cpu_iowait_ratio": ratio(iowait),
            "host/load_1m": nodefs.parse_load(self._read("loadavg", now)),
            "host/processes_blocked": nodefs.parse_procs_blocked(content),
        }

    def _memory(self, now: float) -> dict[str, float | None]:
        info = nodefs.parse_meminfo(self._read("meminfo", now))
        group = cgroup.tightest(cgroup.limited(self._groups))
        return {
            "host/memory_total_bytes": info.get("total"),
            "host/memory_available_bytes": info.get("available"),
            "host/swap_used_bytes": info.get("swap_used"),
            "host/oom_kills_total": nodefs.parse_oom_kills(self._read("vmstat", now)),
            "host/cgroup_memory_bytes": group and group.used,
            "host/cgroup_memory_limit_bytes": group and group.limit,
            "host/cgroup_oom_kills_total": group and group.oom_kills,
            **_shared_memory(self._shm),
        }

    def _pressure(self, now: float) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for resource, kinds in PRESSURES.items():
            shares = nodefs.parse_pressure(self._read(f"pressure/{resource}", now))
            found.update({f"host/{resource}_pressure_{kind}_ratio": shares.get(kind) for kind in kinds})
        return found

    def _traffic(self, now: float) -> dict[str, float | None]:
        read, written = nodefs.parse_disks(self._read("diskstats", now), lambda name: self._is_physical("block", name))
        # Bridges, bonds and their members would count the same bytes again; a container has only virtual interfaces.
        received, sent = nodefs.parse_network(self._read("net/dev", now), lambda name: name != "lo")
        real = {name for name in received if self._is_physical("class/net", name)} or set(received)
        counters = {
            "host/disk_read_bytes_per_second": read,
            "host/disk_write_bytes_per_second": written,
            "host/network_receive_bytes_per_second": {name: received[name] for name in real},
            "host/network_transmit_bytes_per_second": {name: sent[name] for name in real},
        }
        return {name: self._rates.per_second(name, values, now) for name, values in counters.items()}

    def _files(self, now: float) -> dict[str, float | None]:
        opened, limit = nodefs.parse_file_handles(self._read("sys/fs/file-nr", now))
        return {"host/open_files": opened, "host/open_files_limit": limit}

    def _is_physical(self, kind: str, name: str) -> bool:
        """Whether hardware is behind the block device or interface ``name``, not a partition, loop, RAID or bridge."""
        path = f"{self._sys}/{kind}/{name}/device"
        if path not in self._physical and len(self._physical) < 4096:
            self._physical[path] = os.path.exists(path)
        return self._physical.get(path, False)


def _groups_of_node(proc: Path) -> tuple[Path, ...]:
    """The control groups whose limit is the node's as we see it: the container's, the job's. That of a service is the
    daemon's alone."""
    own = cgroup.groups_of("self", proc)
    return own[1:] if own and own[0].suffix == ".service" else own


def _shared_memory(shm: Path) -> dict[str, float | None]:
    try:
        found = os.statvfs(shm)
    except OSError:
        return {}
    total, free = found.f_blocks * found.f_frsize, found.f_bfree * found.f_frsize
    if not 0 <= free <= total or total == 0:
        return {}
    return {"host/shm_total_bytes": total, "host/shm_used_bytes": total - free}
