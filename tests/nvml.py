"""A fake NVML for the GPU tests, compiled once a session, and a poller driven against it."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlhfd_daemon.config import GpuConfig
from rlhfd_daemon.observation import Observation, Subject, node
from rlhfd_daemon.pollers.gpu import GpuPoller
from rlhfd_daemon.runs import Runs
from support import wait_for

SOURCE = Path(__file__).parent / "fixtures" / "nvml" / "fake_nvml.c"
# A call of a starved child takes long, too: on a busy machine half a second is no sign that it hangs.
FAST = GpuConfig(interval_seconds=0.05, call_deadline_seconds=2.0, start_deadline_seconds=20.0, probe="always")


@functools.cache
def library() -> Path:
    """The folder with the compiled fake."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the fake NVML")
    folder = Path(tempfile.mkdtemp(prefix="rlhfd-nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(target), str(SOURCE), "-lpthread"], check=True)
    return folder


class FakeNvml:
    """What the fake says; see the head of fake_nvml.c for the orders."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "nvml"
        self._turn = 0
        self.say("gpus 2")

    @property
    def environ(self) -> dict[str, str]:
        """For a daemon; its NVML children inherit it."""
        return {"LD_LIBRARY_PATH": str(library()), "FAKE_NVML": str(self.path)}

    def say(self, *orders: str) -> None:
        """From now on, and only this."""
        self._turn += 1
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(orders) + "\n")
        os.utime(new, ns=(self._turn * 10**9, self._turn * 10**9))
        new.replace(self.path)

    def calls(self, function: str) -> int:
        """How often it was called, by all processes together."""
        return sum(counts.get(function, 0) for counts in self.calls_by_pid().values())

    def calls_by_pid(self) -> dict[int, dict[str, int]]:
        found: dict[int, dict[str, int]] = {}
        for path in self.path.parent.glob("nvml.calls.*"):
            if path.suffix != ".new":
                lines = (line.split() for line in path.read_text().splitlines())
                found[int(path.suffix[1:])] = {name: int(count) for name, count in lines}
        return found

    @property
    def open_handles(self) -> int:
        return self.calls("nvmlInit") - self.calls("nvmlShutdown")


class Driven:
    """A poller that is asked every 20 ms; remembers everything it has seen. ``eager``: it reads and tries
    again at once, not after the pauses that it would make."""

    def __init__(self, poller: GpuPoller) -> None:
        self.poller = poller
        self.seen: list[Observation] = []
        self.eager = True

    def tick(self) -> None:
        if self.eager:
            self.poller._read_at = self.poller._probe_at = 0.0
        self.seen += asyncio.run(self.poller.poll(time.time()))

    def until(self, condition: Callable[[], Any], timeout: float = 40.0) -> Any:
        def look() -> Any:
            self.tick()
            return condition()

        return wait_for(look, timeout)

    def until_state(self, state: str) -> None:
        self.until(lambda: self.poller.state == state)

    def until_reading(self) -> dict[str, float]:
        """The node's metrics of a reading that is made from now on."""
        del self.seen[:]
        self.until(lambda: any(one.metrics for one in self.seen))
        return self.metrics()

    def metrics(self, subject: Subject | None = None) -> dict[str, float]:
        subject = subject or node()
        return {name: value for one in self.seen if one.subject == subject for name, value in one.metrics.items()}

    def events(self, name: str) -> list[dict[str, object]]:
        return [one.fields for one in self.seen if one.event == name]

    def states(self) -> list[object]:
        return [fields["state"] for fields in self.events("gpu_telemetry_state")]

    def pid(self) -> int:
        (pid,) = self.poller._keeper.holders
        return pid


@contextmanager
def driven(state_dir: Path, config: GpuConfig = FAST, runs: Runs | None = None, **parts: Any) -> Iterator[Driven]:
    """A poller for the length of a ``with`` block."""
    poller = GpuPoller(config, runs or Runs(), state_dir, **parts)
    try:
        yield Driven(poller)
    finally:
        asyncio.run(poller.stop())
        keeper = poller._keeper
        for pid in keeper.holders:  # abandoned ones
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: keeper.settle() or not (keeper.holders or keeper._abandoned))
