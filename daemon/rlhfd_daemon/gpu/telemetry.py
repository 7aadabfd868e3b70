"""From the child's messages to observations: inventory, metrics per GPU and per process, lost GPUs and XIDs."""

from __future__ import annotations

from collections.abc import Iterator

from rlhfd_daemon.gpu.owners import Owners
from rlhfd_daemon.gpu.reading import BOUNDS, Described, End, GpuRead, Opened, Previous, Xid, metrics
from rlhfd_daemon.gpu.xid import meaning
from rlhfd_daemon.observation import Observation, Subject, node

__all__ = ["Telemetry", "state_of"]

_STATES = {
    "LibraryNotFound": "no_library",
    "DriverNotLoaded": "driver_not_loaded",
    "LibRmVersionMismatch": "version_mismatch",
    "NoPermission": "no_permission",
    "GpuIsLost": "gpu_lost",
    "GpuNotFound": "gpu_lost",
    "ResetRequired": "reset_required",
}
_WORST_FIRST = ("gpu_lost", "reset_required")
_MEMORY = BOUNDS["memory_used"]


def state_of(error: str) -> str:
    """The one state for an error of NVML, by its name in the binding without ``NVMLError_``."""
    return _STATES.get(error, f"unknown_error:{error}")


class Telemetry:
    """What the daemon knows of the GPUs. ``latest`` are each GPU's newest metrics, ``errors`` the GPUs that could not
    be read in the newest reading, ``driver`` its version."""

    def __init__(self, owners: Owners) -> None:
        self.driver = ""
        self.inventory: dict[int, Described] = {}
        self.latest: dict[int, dict[str, float]] = {}
        self.errors: dict[int, str] = {}
        self.is_mig_change_pending = False
        self._owners = owners
        self._session: dict[int, Described] = {}
        self._told: object = None
        self._lost: dict[str, int] = {}
        self._previous: dict[str, Previous] = {}
        self._reads: list[GpuRead] = []

    def opened(self, message: Opened) -> None:
        self.driver = message.driver
        self._session, self._reads = {}, []

    def described(self, message: Described) -> None:
        self._session[message.index] = message

    def read(self, message: GpuRead) -> None:
        self._reads.append(message)

    def xid(self, message: Xid) -> Observation:
        text, critical = meaning(message.xid)
        fields = {"gpu": message.index, "uuid": message.uuid, "name": self._name(message.index), "xid": message.xid}
        return _event("gpu_xid", **fields, meaning=text, critical=critical)

    def ended(self, message: End) -> Iterator[Observation]:
        """What a complete reading comes to."""
        reads, self._reads = self._reads, []
        self.errors = {read.index: read.error for read in reads if read.error}
        yield from self._gone(message.count)
        known = {**self.inventory, **self._session}
        self.inventory = {index: one for index, one in known.items() if index < message.count}
        yield from self._inventory()
        self.is_mig_change_pending = any(
            read.values.get("mig_mode") is not None
            and read.values.get("mig_mode") != read.values.get("mig_mode_pending", read.values.get("mig_mode"))
            for read in reads
        )
        memory: dict[Subject, dict[str, float]] = {}
        for read in reads:
            yield from self._one(read, memory)
        for subject, values in memory.items():
            yield Observation(subject=subject, metrics=dict(list(values.items())[:512]))

    def state(self, count: int) -> tuple[str, str]:
        """State and detail after a complete reading."""
        if count == 0:
            return "no_devices", "the driver has no GPU"
        worst = sorted(self.errors.items(), key=lambda item: (state_of(item[1]) not in _WORST_FIRST, item[0]))
        if not worst:
            return "ok", ""
        return state_of(worst[0][1]), ", ".join(f"GPU {index} ({self._uuid(index)}): {error}" for index, error in worst)

    def _one(self, read: GpuRead, memory: dict[Subject, dict[str, float]]) -> Iterator[Observation]:
        uuid = self._uuid(read.index)
        if read.error:
            self.latest.pop(read.index, None)
            if uuid not in self._lost and state_of(read.error) != "no_permission":
                yield self._lose(uuid, read.index, state_of(read.error))
            return
        if uuid in self._lost:
            del self._lost[uuid]
            yield _event("gpu_back", gpu=read.index, uuid=uuid, name=self._name(read.index))
        found, self._previous[uuid] = metrics(read.values, self._previous.get(uuid))
        for instance in read.mig:
            values, _ = metrics(instance.values, None)
            found.update({f"mig/{instance.index}/{name}": value for name, value in values.items()})
        found.update(self._memory(read, found.get("memory_total_bytes", _MEMORY.high), memory))
        self.latest[read.index] = found
        if found:
            yield Observation(subject=node(), metrics={f"gpu/{read.index}/{name}": v for name, v in found.items()})

    def _memory(self, read: GpuRead, limit: float, memory: dict[Subject, dict[str, float]]) -> dict[str, float]:
        """Adds each observed process's memory to ``memory``; returns what all others have, if NVML tells."""
        listed = [read.processes, *(instance.processes for instance in read.mig)]
        told = [one for processes in listed if processes is not None for one in processes]
        if all(processes is None for processes in listed):
            return {}
        held: dict[int, float] = {}
        for pid, used in told:
            if used is not None and 0 <= used <= limit:
                held[pid] = max(held.get(pid, 0.0), float(used))
        owners = self._owners.of(held)
        for pid, (subject, name) in owners.items():
            values, key = memory.setdefault(subject, {}), f"process/{name}/gpu_memory_bytes"
            values[key] = values.get(key, 0.0) + held[pid]
        return {"other_processes_bytes": float(sum(used for pid, used in held.items() if pid not in owners))}

    def _gone(self, count: int) -> Iterator[Observation]:
        """GPUs that the driver no longer counts."""
        here = {one.uuid for one in self._session.values()}
        for index, one in self.inventory.items():
            if count < len(self.inventory) and one.uuid not in here and one.uuid not in self._lost:
                yield self._lose(one.uuid, index, "gone")

    def _lose(self, uuid: str, index: int, reason: str) -> Observation:
        self._lost[uuid] = index
        return _event("gpu_lost", gpu=index, uuid=uuid, name=self._name(index), reason=reason)

    def _inventory(self) -> Iterator[Observation]:
        gpus = [
            {"index": index, "uuid": one.uuid, "name": one.name, "bus_id": one.bus_id}
            for index, one in sorted(self.inventory.items())
        ]
        if (self.driver, gpus) != self._told:
            self._told = (self.driver, gpus)
            yield _event("gpu_inventory", driver=self.driver, gpus=gpus)

    def _uuid(self, index: int) -> str:
        one = self._session.get(index) or self.inventory.get(index)
        return one.uuid if one is not None and one.uuid else f"index-{index}"

    def _name(self, index: int) -> str:
        one = self._session.get(index) or self.inventory.get(index)
        return "" if one is None else one.name


def _event(event: str, **fields: object) -> Observation:
    return Observation(subject=node(), event=event, fields=fields)
