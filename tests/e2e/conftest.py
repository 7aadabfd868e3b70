"""What end-to-end tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rlhfd_alerts.testing import Reply
from services import Server
from support import DaemonProcess


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(*replies: Reply, port: int = 0) -> Server:
        made.append(Server(*replies, port=port))
        return made[-1]

    yield start
    DaemonProcess.kill_all()
    for server in made:
        server.close()
