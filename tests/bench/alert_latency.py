"""From `emit()` of a value that is wrong to the webhook's request on loopback, alone and with 64 streams running.

Usage: python tests/bench/alert_latency.py [ALERTS] [STREAMS] [FRAMES_PER_SECOND]. Each alert is a NaN in a run of its
own, whose emitter has been sending healthy values before, at a random moment. The streams are those of `daemon_load.py
recorded`, from processes of their own. The request counts when its head has arrived. `read` is the part until the
daemon has the frame in hands, as its record says.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from rlhfd_alerts.testing import SECRET
from rlhfd_daemon.frame import decode
from rlhfd_daemon.recording import read
from rlhfd_daemon.segment import Record
from rlhfd_emitter import Emitter
from support import DaemonProcess, running_daemon, wait_for

AT_ONCE = 20  # runs that are connected before the first of them breaks
SENDERS = 4
SETTLE_SECONDS = 5.0
LOAD = Path(__file__).with_name("daemon_load.py")


class Receiver:
    """A webhook that notes when it heard of which run."""

    def __init__(self) -> None:
        self.heard: dict[str, float] = {}
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                now = time.perf_counter()
                data = json.loads(self.rfile.read(int(self.headers["content-length"])))["data"]
                heard.setdefault(data["run"], now)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def config(self) -> str:
        """The section of the daemon's configuration."""
        url = f"http://127.0.0.1:{self._server.server_port}/"
        return f'[targets.bench]\nurl = "{url}"\nallow_private = true\nsecret_env = "HOOK_SECRET"\n'

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def latencies(daemon: DaemonProcess, receiver: Receiver, alerts: int, name: str) -> Iterator[float]:
    """Seconds of each alert, from emit() to the request."""
    chance = random.Random(7)
    for first in range(0, alerts, AT_ONCE):
        runs = [f"{name}-{number}" for number in range(first, min(first + AT_ONCE, alerts))]
        emitters = {run: Emitter(run, role="trainer", boot="bench", endpoint=daemon.endpoint) for run in runs}
        for step in range(1, 4):
            for emitter in emitters.values():
                emitter.emit(step, {"train/loss": 1.0})
            time.sleep(0.5)
        for run, emitter in emitters.items():
            time.sleep(chance.uniform(0.05, 0.15))
            began = time.perf_counter()
            emitter.emit(4, {"train/loss": math.nan})
            wait_for(lambda run=run: run in receiver.heard)  # type: ignore[misc]
            yield receiver.heard[run] - began
            emitter.close()


def reading(daemon: DaemonProcess) -> list[float]:
    """Seconds from emit() until the daemon had read the frame, of each NaN in its log."""
    records = [record for record in read(daemon.state / "frames") if isinstance(record, Record)]
    frames = [(record.received_ns, decode(record.payload)) for record in records if b"train/loss" in record.payload]
    return [(at - one.time_ns) / 1e9 for at, one in frames if math.isnan(one.metrics.get("train/loss", 0.0))]


@contextlib.contextmanager
def load(endpoint: str, streams: int, rate: float) -> Iterator[None]:
    """``streams`` of ``rate`` frames a second each."""
    arguments = (str(streams // SENDERS), str(rate), "3600")
    senders = [
        subprocess.Popen([sys.executable, str(LOAD), "--send", "recorded", endpoint, str(one), *arguments])
        for one in range(SENDERS if streams else 0)
    ]
    try:
        time.sleep(SETTLE_SECONDS)
        yield
    finally:
        for one in senders:
            one.kill()
            one.wait()


def measure(alerts: int, streams: int, rate: float) -> None:
    """Print one line."""
    receiver = Receiver()
    with (
        contextlib.closing(receiver),
        tempfile.TemporaryDirectory(prefix="rlhfd-") as folder,
        running_daemon(Path(folder), receiver.config, {"HOOK_SECRET": SECRET}) as daemon,
    ):
        with load(daemon.endpoint, streams, rate):
            found = spread(list(latencies(daemon, receiver, alerts, f"streams{streams}")))
        until_read = spread(reading(daemon))
    print(
        f"{streams:3d} streams: median {1e3 * found.median:.0f} ms, p90 {1e3 * found.p90:.0f} ms, p99 "
        f"{1e3 * found.p99:.0f} ms, {alerts} alerts; read after {1e3 * until_read.median:.0f} ms (p99 "
        f"{1e3 * until_read.p99:.0f} ms)",
        flush=True,
    )


class Spread(NamedTuple):
    median: float
    p90: float
    p99: float


def spread(seconds: list[float]) -> Spread:
    parts = quantiles(seconds, n=100)
    return Spread(median(seconds), parts[89], parts[98])


def main() -> None:
    given = [float(text) for text in sys.argv[1:]]
    alerts, streams, rate = [*given, *(200.0, 64.0, 10.0)[len(given) :]]
    measure(int(alerts), 0, rate)
    measure(int(alerts), int(streams), rate)


if __name__ == "__main__":
    main()
