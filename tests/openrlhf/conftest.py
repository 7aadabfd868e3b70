"""The OpenRLHF environment with this checkout's rlhfd in it, a Ray head, and a webhook receiver in a thread."""

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openrlhf.algorithms import Outcome, run_algorithms
from openrlhf.lab import Lab
from openrlhf.ray_head import ray_head
from openrlhf.runs import rows, start_ppo, under_rlhfd
from openrlhf.trained import Trained, train
from rlhfd_alerts.testing import SECRET, WebhookServer
from rlhfd_daemon.frame import Frame
from support import DaemonProcess, running_daemon

CHECKOUT = Path(__file__).parents[2]
STEPS, KILLED_AT, DOWN_SECONDS = 36, 12, 5.0  # of the run that most tests look at


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The environment of :meth:`Lab.find` with rlhfd installed as a user would, from a wheel and without extras."""
    found = Lab.find()
    wheels = tmp_path_factory.mktemp("wheel")
    pip = [str(found.python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, *pip[1:], "wheel", "--no-deps", "-w", str(wheels), str(CHECKOUT)], check=True)
    (wheel,) = wheels.glob("rlhfd-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--force-reinstall", str(wheel)], check=True)
    return found


@pytest.fixture(scope="session")
def ray(lab: Lab) -> Iterator[str]:
    """The address of a Ray head that was started before any run and knows nothing of rlhfd."""
    with ray_head(lab) as address:
        yield address


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A private directory with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as directory:
        yield Path(directory)


@dataclass(frozen=True)
class PpoRun:
    """What is left of the PPO run: ``logged`` are OpenRLHF's own rows, ``dump`` the tensors that the shim wrote."""

    exit_code: int
    frames: list[Frame]
    logged: list[dict[str, Any]]
    streams: dict[str, dict[str, Any]]
    frame_log: Path
    dump: Path


@pytest.fixture(scope="session")
def ppo_run(lab: Lab, ray: str) -> Iterator[PpoRun]:
    """A healthy PPO run with GAE under observation, through whose middle the daemon is killed and started again."""
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as directory:
        yield observed_ppo(lab, ray, Path(directory))


def observed_ppo(lab: Lab, ray: str, folder: Path) -> PpoRun:
    """Run it in ``folder``."""
    daemon = DaemonProcess(folder).start()
    trace, dump = folder / "trace.jsonl", folder / "dump"
    dump.mkdir()
    prefix = under_rlhfd(lab, "healthy", daemon.endpoint)
    options = {"log": folder / "ppo.log", "trace": trace, "prefix": prefix, "env": {"LAB_DUMP": str(dump)}}
    try:
        with start_ppo(lab, ray, "healthy", steps=STEPS, **options) as process:  # type: ignore[arg-type]
            wait_for_step(trace, KILLED_AT, 400, lambda: process.returncode is None)
            daemon.kill()
            time.sleep(DOWN_SECONDS)  # the outage is the subject
            daemon.start()
            exit_code = process.wait(400)
            assert exit_code == 0, process.tail()
        streams = daemon.streams()
    finally:
        daemon.stop()
    return PpoRun(exit_code, daemon.frames(), rows(trace), streams, daemon.state / "frames", dump)


@pytest.fixture(scope="session")
def trained(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Trained]]:
    """The outcome of a run of SFT, RM or DPO by its name in ``RANKS``, which is made when it is asked for first."""
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as directory, running_daemon(Path(directory)) as daemon:
        yield functools.cache(lambda name: train(lab, daemon, name, tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="session")
def algorithms(lab: Lab, ray: str) -> Iterator[dict[str, Outcome]]:
    """The outcomes of PPO's algorithms and topologies by their names in ``VARIANTS``."""
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as directory:
        yield run_algorithms(lab, ray, Path(directory))


class Hook:
    """A real HTTP receiver for webhooks, running in a thread; notes when each call arrived (Unix seconds)."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[tuple[float, dict[str, Any]]] = []
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        async with WebhookServer() as server:
            self.url = server.url
            self._ready.set()
            while not self._stopped.is_set():
                try:
                    await server.wait_for(len(self.calls) + 1, timeout=0.2)
                except asyncio.TimeoutError:
                    continue
                self.calls.append((time.time(), json.loads(server.requests[len(self.calls)].body)))

    def __enter__(self) -> Hook:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)
        self._loop.close()


def daemon_with_hook(directory: Path, hook: Hook) -> DaemonProcess:
    """A daemon that sends its alerts to ``hook``; not started yet."""
    target = f'[targets.hook]\nurl = "{hook.url}"\nsecret_env = "HOOK_SECRET"\nallow_private = true\n'
    return DaemonProcess(directory, target, {"HOOK_SECRET": SECRET})


def wait_for_step(trace: Path, step: int, timeout: float, alive: Callable[[], bool]) -> None:
    """Return once OpenRLHF has logged ``step``."""
    deadline = time.monotonic() + timeout
    while not any(row["step"] >= step for row in rows(trace)):
        assert alive(), f"the run ended before step {step}"
        assert time.monotonic() < deadline, f"no step {step} after {timeout} s"
        time.sleep(0.1)
