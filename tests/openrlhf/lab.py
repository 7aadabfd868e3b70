"""Finds or builds the environment in which real OpenRLHF runs on the CPU, and starts processes in it.

Standard library only, like ``ray_head`` and ``runs``: pytest imports them in rlhfd's own environment.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from openrlhf.shim.lab_ports import bind_steady

__all__ = ["Lab", "LabError", "Process", "free_ports", "start"]

HERE = Path(__file__).resolve().parent
SHIM = HERE / "shim"
BUILD_SECONDS = 1800.0
KILL_SECONDS = 30.0

# Of other people's settings none may reach a run: the tests say themselves what is set.
FOREIGN_PREFIXES = ("RLHFD_", "LAB_", "RAY_", "PYTHON", "VIRTUAL_ENV", "PYTEST", "CUDA_", "VLLM_", "HF_", "OMP_")

SETTINGS = {
    "DS_ACCELERATOR": "cpu",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MASTER_ADDR": "127.0.0.1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # OpenRLHF's workers have a runtime_env: those would idle
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",  # compiling compute_entropy costs ten seconds of the first step
}


class LabError(Exception):
    """The lab could not do what a test needs; says what and shows the end of the log."""


@dataclass(frozen=True)
class Lab:
    """The folder that build_env.sh made."""

    root: Path

    @classmethod
    def find(cls) -> Lab:
        """The environment of this checkout; builds it if need be, which takes minutes. Raises :class:`LabError`."""
        try:
            built = subprocess.run(
                [str(HERE / "build_env.sh")], stdout=subprocess.PIPE, text=True, timeout=BUILD_SECONDS, check=True
            )
        except (subprocess.SubprocessError, OSError) as error:
            raise LabError(f"the OpenRLHF environment could not be built: {error}") from error
        return cls(Path(built.stdout.splitlines()[-1]).parent)

    @property
    def venv(self) -> Path:
        return self.root / "venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def assets(self) -> Path:
        """The models ``tiny`` and ``sft`` and the data sets, as ``shim/lab_assets.py`` names them."""
        return self.root / "assets"

    def environment(self) -> dict[str, str]:
        """A whole environment for a process of the lab: without ``RLHFD_*`` and without ``LAB_*``."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN_PREFIXES)}
        caches = {
            "TORCH_EXTENSIONS_DIR": "torch_extensions",
            "TORCHINDUCTOR_CACHE_DIR": "inductor",
            "VLLM_CACHE_ROOT": "vllm",
            "HF_HOME": "huggingface",
        }
        return {
            **inherited,
            **SETTINGS,
            **{name: str(self.root / "caches" / folder) for name, folder in caches.items()},
            "PATH": f"{self.venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(SHIM),
        }


@dataclass(frozen=True)
class Process:
    """A started run, in a session of its own; stdout and stderr go to ``log``. ``with`` kills it at the end."""

    popen: subprocess.Popen[bytes]
    log: Path

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; ``None`` while it runs."""
        return self.popen.poll()

    def wait(self, timeout: float) -> int:
        """The exit status; :class:`LabError` if the run is not over after ``timeout`` seconds."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"not over after {timeout:.0f} s\n{self.tail()}") from error

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Signal the whole process group and reap the leader; does nothing if that was reaped before."""
        if self.popen.poll() is None:
            os.killpg(self.pid, sig)
            self.wait(KILL_SECONDS)

    def tail(self, lines: int = 40) -> str:
        """The end of the log, for messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def start(command: Sequence[str | Path], environment: Mapping[str, str], log: Path, cwd: Path) -> Process:
    """Start ``command`` in its own session with stdin closed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    cwd.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [str(part) for part in command],
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Process(popen, log.resolve())


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback interface that nobody has at the moment, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            bind_steady(each, ("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
