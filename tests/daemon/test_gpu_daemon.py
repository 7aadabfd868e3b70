"""GPU telemetry in a real daemon: recorded, commanded from the command line, and released across `kill -9`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from nvml import FakeNvml
from rlhfd_daemon.control import ask
from support import DaemonProcess, invoked, running_daemon, wait_for

CONFIG = '[pollers.gpu]\nprobe = "always"\ninterval_seconds = 1.0\n'


def gpu(daemon: DaemonProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return invoked("gpu", *arguments, "--config", daemon.config)


def status(daemon: DaemonProcess) -> dict[str, Any]:
    return ask(daemon.control, "GET", "/api/v1/gpu")


def test_readings_and_events_are_recorded_as_the_node_s(short_dir: Path) -> None:
    nvml = FakeNvml(short_dir)
    nvml.say("gpus 1", "set 0 power 250000", "xid 0 79")
    with running_daemon(short_dir, CONFIG, nvml.environ) as daemon:

        def seen(event: str | None) -> bool:
            return any(frame.event == event and "gpu" in str(frame.metrics or event) for frame in daemon.frames())

        for event in ("gpu_inventory", "gpu_telemetry_state", "gpu_xid", None):
            wait_for(lambda event=event: seen(event))  # type: ignore[misc]
        frame = next(frame for frame in daemon.frames() if "gpu/0/power_watts" in frame.metrics)
        assert frame.metrics["gpu/0/power_watts"] == 250
        assert frame.run.startswith("node:")
        assert frame.role == "rlhfd"


def test_promise_F3_a_release_holds_across_kill_9_and_ends_with_resume(short_dir: Path) -> None:
    nvml = FakeNvml(short_dir)
    with running_daemon(short_dir, CONFIG, nvml.environ) as daemon:
        wait_for(lambda: status(daemon)["state"] == "ok")
        assert nvml.open_handles == 1
        result = gpu(daemon, "release", "--for", "3600")
        assert (result.returncode, result.stderr) == (0, "")
        assert nvml.open_handles == 0
        daemon.kill()
        daemon.start()
        wait_for(lambda: status(daemon)["state"] == "released")
        assert status(daemon)["holders"] == []
        assert nvml.calls("nvmlInit") == 1
        assert gpu(daemon, "resume").returncode == 0
        wait_for(lambda: status(daemon)["state"] == "ok")
        (child,) = status(daemon)["holders"]
        daemon.kill()
        wait_for(lambda: not Path(f"/proc/{child}").exists())
        assert nvml.open_handles == 0
