"""GPU telemetry: keeps one NVML child at work, replaces one that hangs, and lets the GPUs go when told to."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from rlhfd_daemon.config import GpuConfig
from rlhfd_daemon.gpu import node as nvidia
from rlhfd_daemon.gpu.keeper import Keeper, Settled
from rlhfd_daemon.gpu.owners import Owners
from rlhfd_daemon.gpu.process import Child, Deadlines, Overdue
from rlhfd_daemon.gpu.reading import Described, End, Failure, GpuRead, Hello, Message, Opened, Xid
from rlhfd_daemon.gpu.release import Release
from rlhfd_daemon.gpu.telemetry import Telemetry, state_of
from rlhfd_daemon.gpu.timing import backoff_seconds, pause_seconds
from rlhfd_daemon.observation import Observation, node
from rlhfd_daemon.process_names import ProcessNames
from rlhfd_daemon.runs import Runs

__all__ = ["GpuPoller"]

AVOID_SECONDS = 600.0  # a GPU on which a call hung; the wait for XIDs if that hung
MIG_RELEASE_SECONDS, MIG_RELEASE_EVERY_SECONDS = 60.0, 600.0
REFUSED_SECONDS = 3600.0
# Within the command line's own patience, and longer than it takes to kill a child (3.5 s) and to give it up (3 s more).
RELEASE_SECONDS = 8.0
EVENTS = -1  # the wait for XIDs, where GPUs are numbered
log = structlog.get_logger()


class GpuPoller:
    """Polled every second; the GPUs are read at the configured interval or less often. Never blocks: what the child
    says is collected in passing. ``names`` are to be shared with the pollers that name the same processes; ``clock``
    is monotonic; ``child`` makes a child process."""

    name = "gpu"
    interval_seconds = 1.0

    def __init__(
        self,
        config: GpuConfig,
        runs: Runs,
        state_dir: Path,
        *,
        names: ProcessNames | None = None,
        proc: Path = Path("/proc"),
        dev: Path = Path("/dev"),
        pci_devices: Path = Path("/sys/bus/pci/devices"),
        clock: Callable[[], float] = time.monotonic,
        child: Callable[[Hello, Deadlines], Child] = Child,
    ) -> None:
        self.state: str | None = None
        self.detail = ""
        self.telemetry = Telemetry(Owners(runs, names or ProcessNames(), proc))
        self.pause_seconds = config.interval_seconds
        self._config = config
        self._proc, self._dev, self._pci_devices = proc, dev, pci_devices
        self._clock, self._make_child = clock, child
        self._release = Release(state_dir)
        self._keeper = Keeper()
        self._seen: list[Observation] = []
        self._failures = 0
        self._probe_at = self._read_at = 0.0
        self._restart_at = math.inf
        self._stuck: Overdue | None = None
        self._is_stuck_told = False
        self._avoid: dict[int, float] = {}
        self._refused: dict[tuple[int, str], float] = {}
        self._known: object = None
        self._bus_ids: list[str] = []
        self._count = -1
        self._mig_released_at = -math.inf

    async def poll(self, now: float) -> list[Observation]:
        """What has been seen since the last time."""
        self._tick(now)
        seen, self._seen = self._seen, []
        return seen

    async def release(self, seconds: float | None) -> dict[str, object]:
        """Let go of all GPUs, for ``seconds`` or until :meth:`resume`; answers when nobody of ours holds them, or
        after 8 s with the ``holders`` that hang. Holds across restarts. :raises OSError: that could not be stored."""
        try:
            self._release.begin(math.inf if seconds is None else time.time() + seconds)
        finally:
            self._enter_release(time.time())
        for settled in await self._keeper.wait(RELEASE_SECONDS):
            self._tell(settled)
        return self.describe()

    async def resume(self) -> dict[str, object]:
        """Look at the GPUs again, from the next second on."""
        self._release.end()
        self._probe_at, self._failures = 0.0, 0
        return self.describe()

    async def stop(self) -> None:
        """End the child in order if it can be done in 1.5 s, else kill it."""
        self._let_go()
        await self._keeper.wait(1.5)
        self._keeper.kill()
        await self._keeper.wait(0.5)

    def describe(self) -> dict[str, object]:
        """The answer of ``GET /api/v1/gpu``."""
        until = self._release.until
        return {
            "state": self.state,
            "detail": self.detail,
            "released": self._release.is_on(time.time()),
            "released_until": None if until is None or math.isinf(until) else until,
            "holders": self._keeper.holders,
            "pause_seconds": self.pause_seconds,
            "driver": self.telemetry.driver,
            "gpus": [
                {**msgspec.to_builtins(one), "error": self.telemetry.errors.get(index, ""),
                 "metrics": self.telemetry.latest.get(index, {})}
                for index, one in sorted(self.telemetry.inventory.items())
            ],
        }  # fmt: skip

    def _tick(self, now: float) -> None:
        settled = self._keeper.settle()
        if settled is not None:
            self._tell(settled)
        if self._release.is_on(now):
            self._enter_release(now)
            return
        if self._release.until is not None:
            self._release.end()
        if self._keeper.child is not None:
            self._attend(self._keeper.child)
        elif self._keeper.may_begin and self._clock() >= self._probe_at:
            self._probe()

    def _let_go(self) -> None:
        """End the child; what it said last is no longer what is."""
        self._keeper.let_go()
        self.telemetry.latest.clear()

    def _enter_release(self, now: float) -> None:
        self._let_go()
        until = self._release.until or now
        self._become("released", "until resumed" if math.isinf(until) else f"for {max(0, round(until - now))} s")

    def _probe(self) -> None:
        """Start a child if there is a driver that it could ask."""
        if self._config.probe == "auto" and not nvidia.driver_is_there(self._proc, self._dev):
            state = "driver_not_loaded" if nvidia.library_is_known() else "no_library"
            self._fail(state, "no NVIDIA driver on this node")
            return
        self._bus_ids = nvidia.bus_ids(self._proc)
        self._avoid = {gpu: until for gpu, until in self._avoid.items() if until > self._clock()}
        refused = [(gpu, call, until - self._clock()) for (gpu, call), until in self._refused.items()]
        hello = Hello(refused, self._bus_ids, str(self._pci_devices), events=EVENTS not in self._avoid)
        deadlines = Deadlines(self._config.call_deadline_seconds, self._config.start_deadline_seconds)
        self._count, self._restart_at, self._read_at = -1, math.inf, 0.0
        self._keeper.child = self._make_child(hello, deadlines)

    def _attend(self, child: Child) -> None:
        gone = child.is_gone  # asked first: what it said before it went is still in the pipe
        for message in child.receive():
            self._take(message)
            if self._keeper.child is not child:
                return
        if gone:
            self._let_go()
            self._fail("unknown_error:child_died", f"the process that asks NVML ended with {child.exit_code}")
            return
        overdue = child.overdue()
        if overdue is not None:
            self._hang(child, overdue)
        elif not child.is_reading:
            self._read(child)

    def _read(self, child: Child) -> None:
        now = self._clock()
        events_are_due = self._avoid.get(EVENTS, math.inf) <= now
        if now >= self._restart_at or events_are_due or nvidia.bus_ids(self._proc) != self._bus_ids:
            self._let_go()
            self._probe_at = now
        elif now >= self._read_at:
            self._avoid = {gpu: until for gpu, until in self._avoid.items() if until > now}
            child.read([gpu for gpu in self._avoid if gpu != EVENTS])

    def _take(self, message: Message) -> None:
        if isinstance(message, Opened):
            self.telemetry.opened(message)
        elif isinstance(message, Described):
            self.telemetry.described(message)
        elif isinstance(message, GpuRead):
            self.telemetry.read(message)
        elif isinstance(message, Xid):
            self._seen.append(self.telemetry.xid(message))
        elif isinstance(message, Failure):
            self._let_go()
            self._fail(state_of(message.error), message.detail or message.error)
        elif self._keeper.child is not None:
            self._keeper.child.is_reading = False
            self._take_end(message)

    def _take_end(self, end: End) -> None:
        now = self._clock()
        if self._count not in (-1, end.count):
            self._restart_at = now  # handles and numbers of before may mean other GPUs now
            return
        self._count = end.count
        self._seen += self.telemetry.ended(end)
        self._remember_refusals(end, now)
        chance = random.random()
        self.pause_seconds = pause_seconds(self._config.interval_seconds, end.seconds, end.cpu_seconds, chance)
        self._read_at = now + self.pause_seconds
        state, detail = self.telemetry.state(end.count)
        if self._avoid:
            return  # stuck, until what hung has answered
        self._unstick()
        if self.telemetry.is_mig_change_pending and now - self._mig_released_at > MIG_RELEASE_EVERY_SECONDS:
            self._mig_released_at = now
            self._let_go()
            self._probe_at = now + MIG_RELEASE_SECONDS
            self._become("released", f"for {MIG_RELEASE_SECONDS:.0f} s: a change of the MIG mode is pending")
        elif state == "ok":
            self._failures = 0
            self._become(state, detail)
        else:
            self._fail(state, detail)
            self._restart_at = self._probe_at
            if state in ("reset_required", "no_devices"):
                self._let_go()  # a reset needs everybody to let go

    def _remember_refusals(self, end: End, now: float) -> None:
        """What NVML refused is not asked again by the next child either, unless driver or GPUs have changed."""
        uuids = [(index, one.uuid) for index, one in sorted(self.telemetry.inventory.items())]
        if self._known not in (None, (self.telemetry.driver, uuids)):
            self._refused.clear()
        self._known = (self.telemetry.driver, uuids)
        self._refused = {key: until for key, until in self._refused.items() if until > now}
        self._refused.update(dict.fromkeys(end.refused, now + REFUSED_SECONDS))

    def _hang(self, child: Child, overdue: Overdue) -> None:
        """A call is overdue: the child is killed; the others' GPUs are read without the one on which it hung."""
        self._stuck = overdue
        if overdue.is_wait or overdue.gpu >= 0:
            self._avoid[EVENTS if overdue.is_wait else overdue.gpu] = self._clock() + AVOID_SECONDS
        child.kill()
        self._let_go()
        where = f" on GPU {overdue.gpu}" if overdue.gpu >= 0 else ""
        self._fail("stuck", f"{overdue.call or 'the child'}{where} has not answered for {overdue.seconds} s")

    def _unstick(self) -> None:
        if self._is_stuck_told:
            self._seen.append(Observation(subject=node(), event="gpu_telemetry_resumed"))
        self._stuck, self._is_stuck_told = None, False

    def _fail(self, state: str, detail: str) -> None:
        self._failures += 1
        self._probe_at = self._clock() + backoff_seconds(self._failures)
        self._become(state, detail)

    def _tell(self, settled: Settled) -> None:
        """Report a child that hung, once it is known whether it could be killed."""
        if self._is_stuck_told and not settled.abandoned:
            return
        now = settled.child.at() if settled.abandoned else self._stuck
        stuck = self._stuck or now
        if stuck is not None and now is not None:
            self._is_stuck_told = True
            fields = {"call": stuck.call, "gpu": stuck.gpu, "seconds": stuck.seconds, "pid": stuck.pid}
            told = {**fields, "process_state": now.process_state, "abandoned": settled.abandoned}
            self._seen.append(Observation(subject=node(), event="gpu_telemetry_stuck", fields=told))

    def _become(self, state: str, detail: str) -> None:
        before, self.detail = self.state, detail
        if state != before:
            self.state = state
            log.info("gpu telemetry", state=state, before=before, detail=detail)
            fields: dict[str, object] = {"state": state, "before": before, "detail": detail}
            self._seen.append(Observation(subject=node(), event="gpu_telemetry_state", fields=fields))
