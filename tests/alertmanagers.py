"""A real Alertmanager: Debian's, installed or only unpacked into .venv by `make test`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from support import wait_for

__all__ = ["Alertmanager"]

NAME = "prometheus-alertmanager"
UNPACKED = Path(__file__).parents[1] / ".venv" / "prometheus" / "usr"
HOME = b"/usr/share/prometheus/alertmanager"  # where Debian's build looks for its templates
CONFIG = "route: {receiver: none}\nreceivers: [{name: none}]\n"


def program(folder: Path) -> str:
    """The installed one; of an unpacked one a copy in ``folder`` that looks for its templates in ``folder``."""
    found = shutil.which(NAME)
    if found is not None:
        return found
    unpacked = UNPACKED / "bin" / NAME
    if not unpacked.exists():
        pytest.fail(f"{NAME} is needed: apt-get install it, or run `make test`, which unpacks it into .venv")
    copy = folder / NAME
    # As long as what it replaces, and the same as "." when it starts in ``folder``.
    copy.write_bytes(unpacked.read_bytes().replace(HOME, b"." + b"/" * (len(HOME) - 1)))
    copy.chmod(0o755)
    for template in (UNPACKED / "share" / "prometheus" / "alertmanager").glob("*.tmpl"):
        shutil.copy(template, folder)
    return str(copy)


class Alertmanager:
    """A server on a free port of loopback, its data and log in ``folder``."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        (folder / "am.yml").write_text(config)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._command = [
            program(folder), f"--config.file={folder}/am.yml", f"--storage.path={folder}/data",
            "--cluster.listen-address=", f"--web.listen-address={self.url.removeprefix('http://')}",
        ]  # fmt: skip
        self._folder = folder
        self.log = folder / "log"
        self.start()

    def start(self) -> None:
        """Start it, also anew after :meth:`stop`; returns when it answers."""
        environ = {**os.environ, "GOMAXPROCS": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._folder, env=environ)
        wait_for(lambda: self.alerts() is not None)

    def alerts(self) -> list[dict[str, Any]] | None:
        """Those that fire, as it shows them; ``None`` while it starts."""
        if self.process.poll() is not None:
            pytest.fail(f"alertmanager ended:\n{self.log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=10) as response:
                found: list[dict[str, Any]] = json.load(response)
                return found
        except (urllib.error.URLError, ConnectionError):
            return None

    def stop(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait(10)
