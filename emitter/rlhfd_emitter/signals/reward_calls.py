"""The reward calls of one process: which are under way, how long they take and which fail; told at intervals."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any

from rlhfd_emitter.process import Process
from rlhfd_emitter.signals.statistics import quantile

TICK_SECONDS = 0.25
QUIET_SECONDS = 0.2  # without a call, and without a generation, after which one batch of calls is over
INTERVAL_SECONDS = 10.0
SLOW_SECONDS = 0.5
MAX_LATENCIES = 4096
PHASE, NAME = "reward", "rlhfd/reward_call"
HOOK = "thread.reward_calls"

_all: weakref.WeakSet[Calls] = weakref.WeakSet()


@dataclass(eq=False)
class Call:
    """One call under way, since ``began`` (monotonic seconds). ``retries`` is ``None`` where attempts cannot be seen,
    ``trouble`` says what was wrong with the last attempt. One that is not ``counted`` is watched, no more."""

    kind: str
    began: float
    counted: bool = True
    retries: int | None = None
    trouble: str = ""


class Tally:
    """What ended since the last frame; memory is bounded, and up to :data:`MAX_LATENCIES` quantiles are exact."""

    def __init__(self) -> None:
        self.count = self.failed = 0
        self.retries: int | None = None
        self._sum = self._longest = 0.0
        self._latencies: list[float] = []
        self._random = random.Random(0)  # one of our own: the training's must not move

    def add(self, seconds: float, failed: bool, retries: int | None) -> None:
        """One call that took ``seconds``. Beyond the limit any call is as likely to be kept (Vitter's algorithm R)."""
        self.count += 1
        self.failed += failed
        if retries is not None:
            self.retries = (self.retries or 0) + retries
        self._sum += seconds
        self._longest = max(self._longest, seconds)
        if len(self._latencies) < MAX_LATENCIES:
            self._latencies.append(seconds)
        elif (place := self._random.randrange(self.count)) < MAX_LATENCIES:
            self._latencies[place] = seconds

    def metrics(self) -> dict[str, float]:
        """Of no call there is no latency."""
        found = {f"{NAME}/count": float(self.count), f"{NAME}/failed_count": float(self.failed)}
        if self.retries is not None:
            found[f"{NAME}/retries"] = float(self.retries)
        if self.count:
            found[f"{NAME}/failed_ratio"] = self.failed / self.count
            found[f"{NAME}/latency_mean_seconds"] = self._sum / self.count
            found[f"{NAME}/latency_p50_seconds"] = quantile(self._latencies, 0.5)
            found[f"{NAME}/latency_p99_seconds"] = quantile(self._latencies, 0.99)
            found[f"{NAME}/latency_max_seconds"] = self._longest
        return found


class Calls:
    """Called from any thread. A frame goes out when a batch of calls is over, and every :data:`INTERVAL_SECONDS` while
    they go on or hang; at most one ``reward_failed`` event in between, at once.

    At most one ``reward`` phase is open: that of the batch's first call, then of the oldest call that takes longer than
    :data:`SLOW_SECONDS`. So its length is that of one call however many overlap, and a hanging one is told from many.
    A thread of ours looks every :data:`TICK_SECONDS` as long as there is something to tell, and sleeps else.
    """

    def __init__(self) -> None:
        self._start_anew()
        _all.add(self)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[Call, None] = {}  # in the order of their beginning
        self._phase: tuple[Call, Any] | None = None
        self._tally = Tally()
        self._total = self._failed_total = 0
        self._opened = self._told = False  # since the last frame
        self._since = self._ended = 0.0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, process: Process, kind: str, counted: bool = True) -> Call:
        """A call of ``kind`` begins; hand the result to :meth:`end`."""
        call = Call(kind, time.monotonic(), counted)
        with self._lock:
            if not self._under_way and not self._tally.count:
                self._since = call.began
            self._under_way[call] = None
            if counted and not self._opened and self._phase is None:
                process.hook(HOOK).guarded(self._open, process, call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(process,), name="rlhfd-rewards", daemon=True)
                self._thread.start()
        if not self._wake.is_set():
            self._wake.set()
        return call

    def end(
        self, process: Process, call: Call, failure: str | None = None, error: BaseException | None = None,
        counted: bool = True,
    ) -> None:  # fmt: skip
        """``call`` is over: ``failure`` says why there is no reward, ``error`` is what it raised. One that was given up
        is not ``counted``."""
        now = time.monotonic()
        with self._lock:
            self._under_way.pop(call, None)
            self._ended = now
            if self._phase is not None and self._phase[0] is call:
                (_, token), self._phase = self._phase, None
                process.hook(HOOK).guarded(process.end, token, error)
            if not counted or (not call.counted and failure is None):
                return
            if call.counted:
                self._tally.add(now - call.began, failure is not None, call.retries)
            self._total += 1
            if failure is None:
                return
            self._failed_total += 1
            tell, self._told = not self._told, True
        if tell:
            self._report(process, call, failure, now - call.began)

    def tick(self, process: Process, now: float) -> None:
        """Open the phase of a slow call, emit the frame that is due; ``now`` in monotonic seconds."""
        with self._lock:
            oldest = next(iter(self._under_way), None)
            if self._phase is None and oldest is not None and now - oldest.began >= SLOW_SECONDS:
                self._open(process, oldest)
            if not self._due(now, process.under_way("generation")):
                return
            values = self._tally.metrics() if self._tally.count or oldest is not None else {}
            if values:
                values[f"{NAME}/in_flight"] = float(len(self._under_way))
            if oldest is not None:
                values[f"{NAME}/oldest_seconds"] = now - oldest.began
            else:
                self._wake.clear()
            self._tally, self._since, self._opened, self._told = Tally(), now, False, False
        if values and process.emitter is not None:
            process.emitter.emit(process.step, values)

    def _due(self, now: float, generating: bool) -> bool:
        if now - self._since >= INTERVAL_SECONDS:
            return True
        return not self._under_way and not generating and now - self._ended >= QUIET_SECONDS

    def _open(self, process: Process, call: Call) -> None:
        self._opened = True
        token = process.begin(PHASE)
        if token is not None:
            self._phase = (call, (*token[:2], call.began))

    def _report(self, process: Process, call: Call, failure: str, seconds: float) -> None:
        if process.emitter is not None:
            process.emitter.event(
                "reward_failed", step=process.step, call=call.kind, error=failure, seconds=seconds,
                retries=call.retries, failed=self._failed_total, calls=self._total,
                pid=os.getpid(), host=socket.gethostname(),
            )  # fmt: skip

    def _run(self, process: Process) -> None:
        hook = process.hook(HOOK)
        while not hook.off:
            self._wake.wait()
            time.sleep(TICK_SECONDS)
            hook.guarded(self.tick, process, time.monotonic())


def _after_fork_in_child() -> None:
    for calls in list(_all):
        calls._start_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)
