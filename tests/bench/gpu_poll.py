"""What watching GPUs costs: daemon and NVML process, at the default interval, against the fake NVML.

`PYTHONPATH=tests .venv/bin/python tests/bench/gpu_poll.py [gpus] [seconds]`. The fake answers at once; a driver takes
longer, which `rlhfd gpu status --json` shows on the node itself as `pause_seconds`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from nvml import FakeNvml
from rlhfd_daemon.config import GpuConfig
from rlhfd_daemon.pollers.gpu import GpuPoller
from rlhfd_daemon.runs import Runs

TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_bytes(pid: int, kind: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(kind))


async def watch(poller: GpuPoller, seconds: float) -> tuple[float, int]:
    """CPU seconds of the polling itself, and how many observations came."""
    began, spent, seen = time.monotonic(), 0.0, 0
    while time.monotonic() - began < seconds:
        before = time.process_time()
        seen += len(await poller.poll(time.time()))
        spent += time.process_time() - before
        await asyncio.sleep(poller.interval_seconds)
    return spent, seen


async def measure(gpus: int, seconds: float, config: GpuConfig, orders: tuple[str, ...], label: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        nvml = FakeNvml(Path(directory))
        nvml.say(f"gpus {gpus}", "quiet", *orders)
        os.environ.update(nvml.environ)
        poller = GpuPoller(config, Runs(), Path(directory))
        await watch(poller, 3.0)
        pids = poller._keeper.holders
        before = sum(map(cpu_seconds, pids))
        spent, seen = await watch(poller, seconds)
        child = sum(map(cpu_seconds, pids)) - before
        size = f"{rss_bytes(pids[0], 'VmRSS') >> 20} MB, {rss_bytes(pids[0], 'RssAnon') >> 20} MB of it its own"
        print(
            f"{label}: daemon {spent / seconds:.3%} of a core, child {child / seconds:.3%}, {seen} observations in "
            f"{seconds:g} s, pause {poller.pause_seconds:.1f} s, child's memory {size}"
        )
        await poller.stop()


def main() -> None:
    gpus = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    config = GpuConfig(probe="always")
    asyncio.run(measure(gpus, seconds, config, (), f"{gpus} GPUs, fast calls"))
    slow = ("sleep nvmlDeviceGetPowerUsage 0.2", "sleep nvmlDeviceGetClockInfo 0.2")
    asyncio.run(measure(gpus, seconds, config, slow, f"{gpus} GPUs, three calls of 200 ms each"))
    with tempfile.TemporaryDirectory() as directory:
        poller = GpuPoller(GpuConfig(), Runs(), Path(directory), proc=Path(directory), dev=Path(directory))
        spent, _ = asyncio.run(watch(poller, 20.0))
        print(f"no GPU: daemon {spent / 20:.4%} of a core, no child, state {poller.state}")


if __name__ == "__main__":
    main()
