"""sd_notify: the right lines reach the socket, and a missing or full socket costs a count only."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhfd_daemon.notify import Notifier, watchdog_interval


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@rlhfd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1))
        receiver.settimeout(5)
        yield receiver, name


def test_every_state_reaches_systemd(systemd: tuple[socket.socket, str]) -> None:
    receiver, address = systemd
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("listening")
    notifier.status("two runs\nand more")
    notifier.watchdog()
    notifier.stopping()
    received = [receiver.recv(4096) for _ in range(4)]
    assert received == [b"READY=1\nSTATUS=listening", b"STATUS=two runs and more", b"WATCHDOG=1", b"STOPPING=1"]
    assert notifier.failures_total == 0


def test_reloading_carries_the_monotonic_time(systemd: tuple[socket.socket, str]) -> None:
    receiver, address = systemd
    Notifier({"NOTIFY_SOCKET": address}).reloading()
    first, second = receiver.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdigit()


def test_outside_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.ready()
    assert notifier.failures_total == 0


@pytest.mark.parametrize("address", ["/nonexistent/notify", "@nobody-listens-here", "/" + "x" * 200, "vsock:2:1"])
def test_a_socket_that_does_not_work_is_counted(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.watchdog()
    assert notifier.failures_total == 2


def test_a_full_socket_does_not_block(systemd: tuple[socket.socket, str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd[1]})
    for _ in range(10_000):
        notifier.watchdog()
    assert notifier.failures_total > 0


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_interval_is_half_of_what_systemd_allows(environ: dict[str, str], expected: float | None) -> None:
    assert watchdog_interval(environ) == expected
