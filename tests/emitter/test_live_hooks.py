"""``rlhfd doctor`` says what the daemon's live processes said of their hooks."""

from __future__ import annotations

import functools
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhfd_emitter.doctor import check_live_hooks
from rlhfd_emitter.emitter import Emitter
from rlhfd_emitter.live_hooks import LiveHooks, live_hooks
from rlhfd_emitter.process import Process
from support import DaemonProcess, running_daemon, wait_for


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as folder, running_daemon(Path(folder)) as running:
        yield running


def fail() -> None:
    raise ValueError("oops \x1b[31m")


def observed(daemon: DaemonProcess, role: str, rank: int | None) -> Process:
    """A process with hooks of all kinds."""
    process = Process()
    process.emitter = Emitter("r", role, rank, boot="b", endpoint=daemon.endpoint)
    process.missing, process.changed = ["m.absent", "m.renamed", "m.changed"], {"m.changed": "logs_dict"}
    process.report_hooks()
    for hook, failures in (("m.flaky", 1), ("m.broken", 5)):
        for _ in range(failures):
            process.hook(hook).guarded(fail)
    process.emitter.event("told")
    return process


def test_hooks_that_fail_in_live_processes_are_one_warning_each_and_those_of_the_dead_none(
    daemon: DaemonProcess,
) -> None:
    processes = [observed(daemon, "PolicyModelActor", rank) for rank in (0, 1, 2)]
    wait_for(lambda: sum(frame.event == "told" for frame in daemon.frames()) == 3)
    known = live_hooks(daemon.endpoint, absent={"m.absent", "m.changed"})
    assert known is not None
    assert known.processes == 3
    checks = {check.name: check for check in check_live_hooks(known)}
    assert set(checks) == {f"live hook m.{name}" for name in ("broken", "flaky", "renamed", "changed")}
    pid = processes[0].emitter and daemon.frames()[0].pid
    where = f"(in PolicyModelActor rank 0 pid {pid} and 2 more)"
    broken = checks["live hook m.broken"]
    assert broken.detail == f"switched off after 3 failures in a row: ValueError: oops  [31m {where}"
    assert (broken.state, "report the error" in broken.remedy) == ("warn", True)
    assert checks["live hook m.flaky"].detail.startswith("failed: ValueError: oops")
    assert checks["live hook m.renamed"].detail.startswith("missing:")
    assert "no parameter logs_dict" in checks["live hook m.changed"].detail
    for left in (2, 1, 0):
        emitter = processes.pop().emitter
        assert emitter is not None
        emitter.close()
        wait_for(functools.partial(told, daemon, left))
    (check,) = check_live_hooks(live_hooks(daemon.endpoint))
    assert (check.state, check.detail) == ("ok", "no trouble in 0 live processes of the daemon")


def told(daemon: DaemonProcess, live: int) -> bool:
    """Whether so many processes live, and all of them are said to have lost ``m.broken``."""
    known = live_hooks(daemon.endpoint) or LiveHooks()
    named = [one.who for one in known.troubles if one.hook == "m.broken"]
    more = f" and {live - 1} more" if live > 1 else ""
    return known.processes == live and len(named) == min(live, 1) and all(who.endswith(more) for who in named)


def test_a_daemon_without_a_control_socket_beside_it_is_not_asked(tmp_path: Path) -> None:
    assert live_hooks("tcp://127.0.0.1:1") is None
    assert live_hooks(f"ipc://{tmp_path}/rlhfd.sock") is None
    assert check_live_hooks(None) == []


ANSWERS: list[bytes] = [
    b"",
    b"nonsense\r\n\r\n",
    b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
    b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"runs": [3]}',
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_whatever_answers_there_is_no_error_of_the_doctor(answer: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="rlhfd-") as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/control.sock")
        server.listen()

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(65536)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        known: Any = live_hooks(f"ipc://{folder}/rlhfd.sock")
        thread.join()
    assert known.unknown
    (check,) = check_live_hooks(known)
    assert check.state == "ok"
