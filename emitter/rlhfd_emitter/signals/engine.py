"""Reads vLLM's own metrics in the rollout actor, from a thread of its own: an engine that hangs is read, too."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from rlhfd_emitter.process import Process
from rlhfd_emitter.signals import registry
from rlhfd_emitter.signals.groups import compute
from rlhfd_emitter.vllm_wrappers import Requests

HOOK = "thread.engine"
INTERVAL_SECONDS = 5.0
LEAST_SECONDS = 1.0  # between two readings, however often the requests of a moment end


class Engines:
    """The engines of this process: usually one, several with data parallelism.

    Read every :data:`INTERVAL_SECONDS`, and when the last request under way has ended. Reported while requests are
    under way and when anything has changed since the last report.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._seen: registry.Snapshot = {}
        self._under_way = 0
        self._busy = 0.0

    def start(self, process: Process) -> None:
        """Start the thread, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(process,), name="rlhfd-engine", daemon=True)
            self._thread.start()

    def _run(self, process: Process) -> None:
        over, hook = process.shared(Requests).over, process.hook(HOOK)
        while not hook.off:
            over.wait(INTERVAL_SECONDS - LEAST_SECONDS)
            over.clear()
            hook.guarded(self.report, process)
            time.sleep(LEAST_SECONDS)

    def report(self, process: Process) -> None:
        """Read and emit, if there is anything to say."""
        emitter = process.emitter
        if emitter is None or emitter.muted:
            return
        if values := compute(process, {"engine": self._read}, process):
            emitter.emit(process.step, values)

    def _read(self, process: Process) -> dict[str, float]:
        began = time.perf_counter()
        requests = process.shared(Requests)
        # Before the registry: a request that ends in between may be counted there and not here, never the reverse.
        under_way, busy = requests.under_way, requests.busy_seconds()
        now = _snapshot()
        if not under_way and not self._under_way and now == self._seen:
            return {}
        values = {
            f"rlhfd/engine/{index}/{name}": value
            for index, engine in now.items()
            for name, value in registry.metrics(self._seen.get(index), engine, busy - self._busy).items()
        }
        self._seen, self._busy, self._under_way = now, busy, under_way
        values["rlhfd/engine/requests_under_way"] = float(under_way)
        values["rlhfd/overhead/engine_seconds"] = time.perf_counter() - began
        return values


def watch(process: Process, result: Any) -> None:
    """``AsyncLLM.__init__`` has returned."""
    process.shared(Engines).start(process)


def _snapshot() -> registry.Snapshot:
    """What vLLM has counted so far; nothing if it was told not to."""
    client = sys.modules.get("prometheus_client")
    return {} if client is None else registry.snapshot(client.REGISTRY.restricted_registry(registry.NAMES).collect())
