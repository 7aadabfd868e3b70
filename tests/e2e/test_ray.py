"""Processes that are called as Ray's are, below one called raylet, in a real daemon and its topology."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhfd_daemon.control import ask
from support import DaemonProcess, running_daemon, wait_for

CONFIG = "[pollers.ray]\ninterval_seconds = 0.5\nsample_seconds = 0.1\nunobserved_after_seconds = 0\n"
EMITTER = """
import os, signal
from rlhfd_emitter import Emitter
emitter = Emitter("ppo", role="PolicyModelActor", rank=0, boot="b", endpoint=os.environ["ENDPOINT"])
emitter.emit(1, {"train/kl": 1.0})
signal.pause()
"""


@pytest.fixture
def daemon(short_dir: Path) -> Iterator[DaemonProcess]:
    with running_daemon(short_dir, CONFIG) as one:
        yield one


@pytest.fixture
def raylet(daemon: DaemonProcess) -> Iterator[None]:
    """With one actor that has an emitter, and one that has none."""
    script = daemon.directory / "raylet"
    script.write_text(
        "#!/bin/bash\n"
        f"(exec -a ray::PolicyModelActor.fit {shlex.quote(sys.executable)} -c {shlex.quote(EMITTER)}) &\n"
        "(exec -a ray::Judge.score sleep 300) &\n"
        "wait\n"
    )
    script.chmod(0o755)
    # Under another name the interpreter does not find its virtual environment.
    environment = {**os.environ, "ENDPOINT": daemon.endpoint, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    logs = daemon.directory / "logs"
    command = [str(script), f"--session_dir={daemon.directory}", f"--log_dir={logs}", "--object_store_memory=200"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    yield
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


@pytest.mark.usefixtures("raylet")
def test_the_topology_tells_what_each_actor_does_with_and_without_an_emitter(daemon: DaemonProcess) -> None:
    def actors() -> dict[str, dict[str, Any]]:
        answer: dict[str, Any] = ask(daemon.control, "GET", "/api/v1/topology")
        found = {one["process"]: one for run in answer["runs"] for one in run["processes"]}
        is_all = found.keys() == {"PolicyModelActor-0", "Judge"}
        return found if is_all and all(one["busy_ratio"] == 1.0 and one["method"] for one in found.values()) else {}

    found = wait_for(actors, 30)
    assert {name: one["method"] for name, one in found.items()} == {"PolicyModelActor-0": "fit", "Judge": "score"}
    told = {name for one in daemon.frames() if one.run == "ppo" for name in one.metrics}
    assert {"ray/PolicyModelActor-0/busy_ratio", "ray/Judge/method_seconds", "ray/object_store_capacity_bytes"} <= told
