"""Shared by the tests: a real daemon process in a directory of its own, and waiting without sleeping blindly."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rlhfd_daemon.control import ask
from rlhfd_daemon.errors import ControlError
from rlhfd_daemon.frame import Frame, decode
from rlhfd_daemon.recording import read
from rlhfd_daemon.segment import Record

T = TypeVar("T")
QUIET = {
    "http": 'listen = ""',
    "steps": "enabled = false",
    **{f"pollers.{name}": "enabled = false" for name in ("gpu", "host", "processes", "disks", "ray", "checkpoints")},
}


def wait_for(condition: Callable[[], T], timeout: float = 30.0) -> T:
    """What ``condition`` returns as soon as it is true; ``TimeoutError`` with its last value otherwise. Patient: a test
    may share its two cores with ten others."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {value!r} after {timeout} s")
        time.sleep(0.02)
    return value


def invoked(*arguments: object, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What an `rlhfd` command prints and exits with, without the price of a process of its own, which
    `tests/daemon/test_cli.py` pays."""
    from typer.testing import CliRunner

    from rlhfd_daemon.cli import app

    given = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, given, env=environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return subprocess.CompletedProcess(given, result.exit_code, result.stdout, result.stderr)


def peak_bytes() -> int:
    """The most memory that this process has had resident. Not ru_maxrss: a child begins with that of its parent. The
    source is put into programs that are measured, too."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


class DaemonProcess:
    """`rlhfd daemon` on a state directory and a socket under ``directory``; may be killed and started again."""

    started: ClassVar[list[DaemonProcess]] = []

    def __init__(self, directory: Path, config: str = "", environ: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.socket = directory / "rlhfd.sock"
        self.endpoint = f"ipc://{self.socket}"
        self.control = directory / "control.sock"
        self.state = directory / "state"
        self.config = directory / "rlhfd.toml"
        # What a test does not ask for is off: the node's own telemetry would be in every frame log.
        config += "".join(f"[{name}]\n{setting}\n" for name, setting in QUIET.items() if f"[{name}]" not in config)
        self.config.write_text(
            f'[daemon]\nstate_dir = "{self.state}"\n[ingest]\nendpoint = "{self.endpoint}"\n{config}'
        )
        self.environ = {**os.environ, **(environ or {})}
        self.log = directory / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> DaemonProcess:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rlhfd_daemon", "daemon", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env=self.environ,
            )
        self.started.append(self)
        wait_for(self._answers, 60)
        return self

    @classmethod
    def kill_all(cls) -> None:
        """What a test that failed has left behind."""
        for daemon in cls.started:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.kill()
        cls.started.clear()

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
        with contextlib.suppress(ControlError):
            self.status()
            return True
        return False

    def status(self) -> dict[str, Any]:
        return ask(self.control, "GET", "/api/v1/status", seconds=60.0)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as the kernel or an impatient operator would."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; the exit code, if it ends within 15 s."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise

    def frames(self) -> list[Frame]:
        """What is in the frame log, in order."""
        records = (record for record in read(self.state / "frames") if isinstance(record, Record))
        return [decode(record.payload) for record in records]

    def streams(self) -> dict[str, dict[str, Any]]:
        """Every stream the daemon knows, by id."""
        return {stream["stream"]: stream for run in self.status()["runs"] for stream in run["streams"]}


@contextlib.contextmanager
def running_daemon(
    directory: Path, config: str = "", environ: Mapping[str, str] | None = None
) -> Iterator[DaemonProcess]:
    """A daemon for the length of a ``with`` block."""
    daemon = DaemonProcess(directory, config, environ).start()
    try:
        yield daemon
    finally:
        daemon.stop()
