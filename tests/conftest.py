"""Fixtures for all tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support import DaemonProcess, running_daemon

settings.register_profile("shared", deadline=None)  # on a shared machine the time of an example says nothing
settings.load_profile("shared")


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A private directory with a path short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as directory:
        yield Path(directory)


@pytest.fixture
def daemon(short_dir: Path) -> Iterator[DaemonProcess]:
    """A running daemon with the default configuration."""
    with running_daemon(short_dir) as process:
        yield process


@pytest.fixture(autouse=True)
def _no_run_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RLHFD_RUN", "RLHFD_BOOT", "RLHFD_ENDPOINT", "RLHFD_DISABLE", "RLHFD_ALLOW", "RANK"):
        monkeypatch.delenv(name, raising=False)
