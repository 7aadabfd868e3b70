"""The command that runs the daemon: what it refuses, and what stays out of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_nothing_that_only_other_commands_need_is_in_the_daemon_s_process() -> None:
    program = "import sys, rlhfd_daemon.service; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"rlhfd_daemon", "zmq", "aiohttp"} <= loaded
    assert not {"typer", "click", "numpy", "plotly", "prometheus_client", "torch"} & loaded


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rlhfd_daemon", "daemon", "--config", str(tmp_path / "none.toml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"rlhfd: {tmp_path}/none.toml: cannot be read: No such file or directory\n"


DIRECT = "from rlhfd_daemon.__main__ import main; raise SystemExit(main())"
AMONG_ALL = "from rlhfd_daemon.cli import app; app()"


def test_both_ways_to_the_command_are_one() -> None:
    for program in (DIRECT, AMONG_ALL):
        command = [sys.executable, "-c", program, "daemon", "--no-such-option"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert "unrecognized arguments: --no-such-option" in done.stderr
