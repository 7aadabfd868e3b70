"""A real NVIDIA GPU: what the poller reads is what nvidia-smi shows. Skipped where there is none."""

from __future__ import annotations

import asyncio
import csv
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from nvml import driven
from rlhfd_daemon.config import GpuConfig
from rlhfd_daemon.gpu.node import driver_is_there
from rlhfd_daemon.metrics import lookup

pytestmark = pytest.mark.skipif(
    not driver_is_there() or shutil.which("nvidia-smi") is None, reason="no NVIDIA driver on this machine"
)

MIB = 1 << 20
# nvidia-smi's field, our metric, its unit in ours, and how far two readings a second apart may differ.
SAME = (
    ("memory.total", "memory_total_bytes", MIB, 0.01),
    ("memory.used", "memory_used_bytes", MIB, 0.1),
    ("temperature.gpu", "temperature_celsius", 1, 0.15),
    ("power.draw", "power_watts", 1, 0.5),
    ("enforced.power.limit", "power_limit_watts", 1, 0.01),
    ("clocks.max.sm", "sm_clock_hertz", 1e6, None),
)


def smi() -> list[dict[str, str]]:
    fields = ["index", "uuid", "name", *(field for field, *_ in SAME)]
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    return [dict(zip(fields, (cell.strip() for cell in row), strict=True)) for row in csv.reader(lines)]


def compute_pids() -> set[int]:
    command = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
    return {int(pid) for pid in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()}


def test_what_is_read_is_what_nvidia_smi_shows_and_release_lets_go(tmp_path: Path) -> None:
    with driven(tmp_path, GpuConfig(interval_seconds=1.0)) as poller:
        poller.until_state("ok")
        found = poller.until_reading()
        expected = smi()
        assert [one["uuid"] for one in expected] == [one.uuid for one in poller.poller.telemetry.inventory.values()]
        assert [name for name in found if lookup(name) is None] == []
        for one in expected:
            for field, name, factor, tolerance in SAME:
                value = found.get(f"gpu/{one['index']}/{name}")
                if not one[field].replace(".", "").isdigit():
                    assert value is None, f"nvidia-smi has no {field}, we say {value}"
                elif tolerance is None:
                    assert value is not None
                    assert 0 <= value <= float(one[field]) * factor
                else:
                    assert value == pytest.approx(float(one[field]) * factor, rel=tolerance, abs=2 * factor), field
        child = poller.pid()
        began = time.monotonic()
        answer = asyncio.run(poller.poller.release(None))
        print(f"released after {time.monotonic() - began:.2f} s; pause {poller.poller.pause_seconds:.1f} s")
        assert answer["holders"] == []
        assert not Path(f"/proc/{child}").exists()
        assert child not in compute_pids()
