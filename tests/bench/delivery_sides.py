"""rlhfd and Alertmanager as `alert_delivery.py` sees them: started, killed, given alerts and silences, listened to."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timezone
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from alertmanagers import UNPACKED, Alertmanager
from rlhfd_alerts.testing import SECRET
from rlhfd_emitter import Emitter
from services import Server
from support import DaemonProcess

__all__ = ["AlertmanagerSide", "Message", "RlhfdSide", "Side"]

ENDS_AFTER = 8  # good values until an end is believed
TRY_AGAIN_SECONDS = 0.05


class Message(NamedTuple):
    """That alert ``alert`` has begun (``firing``) or is over (``resolved``). Of messages with one ``identity`` the
    receiver lets only the first have an effect."""

    alert: str
    state: str
    identity: str


class Side(Protocol):
    """One of the two, on data of its own; runs when it is made."""

    name: str

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None:
        """End it and what it has started."""

    def fire(self, alert: str) -> None:
        """The alert begins now; returns when the alert is in the hands of whoever has to see to it."""

    def end(self, alert: str) -> None: ...

    def silence(self, alert: str) -> str:
        """Silence the alert by the command line; its id, once the command has returned."""

    def silences(self) -> set[str]:
        """The ids of those that there are."""

    def messages(self, received: Server) -> Iterator[Message]:
        """What ``received`` was told, in order."""


class RlhfdSide:
    """A daemon; each alert is a NaN in a run of its own."""

    name = "rlhfd"

    def __init__(self, folder: Path, receiver: Server) -> None:
        config = receiver.target("bench", "webhook", 'secret_env = "HOOK_SECRET"')
        self._daemon = DaemonProcess(folder, config, {"HOOK_SECRET": SECRET})
        self._emitters: dict[str, Emitter] = {}
        self.start()

    def start(self) -> None:
        self._daemon.start()
        for alert, emitter in list(self._emitters.items()):
            if not len(emitter._ring):  # the daemon has it: no need of a thread any more
                emitter.close()
                del self._emitters[alert]

    def kill(self) -> None:
        self._daemon.kill()

    def close(self) -> None:
        self._daemon.kill()
        for emitter in self._emitters.values():
            emitter.close(0.0)

    def fire(self, alert: str) -> None:
        emitter = Emitter(alert, role="trainer", boot="bench", endpoint=self._daemon.endpoint)
        emitter.emit(1, {"train/loss": math.nan})
        self._emitters[alert] = emitter

    def end(self, alert: str) -> None:
        for step in range(2, 2 + ENDS_AFTER):
            self._emitters[alert].emit(step, {"train/loss": 1.0})

    def silence(self, alert: str) -> str:
        return self._command("silence", "add", f'run="{alert}"', "-d", "1h", "-a", "bench", "-m", "bench").strip()

    def silences(self) -> set[str]:
        return {one["id"] for one in json.loads(self._command("silence", "list", "--json"))["silences"]}

    def _command(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "rlhfd_daemon", *arguments, "--config", str(self._daemon.config)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout

    def messages(self, received: Server) -> Iterator[Message]:
        for request in list(received.requests):
            body = json.loads(request.body)
            if body["data"]["rule"] == "non_finite":
                yield Message(body["data"]["run"], body["type"].removeprefix("alert."), request.headers["webhook-id"])


class AlertmanagerSide:
    """Alerts are posted to it as Prometheus posts them: until it has taken each once, then, with ``resend_seconds``,
    all of them so often. Messages have no identity, so that each counts."""

    def __init__(self, folder: Path, receiver: Server, *, resend_seconds: float | None = None) -> None:
        self.name = "Alertmanager" if resend_seconds is None else f"Alertmanager, re-sent every {resend_seconds:g} s"
        self._alerts: dict[str, dict[str, Any]] = {}
        self._manager = Alertmanager(
            folder,
            f"""
global: {{resolve_timeout: 1h}}
route: {{receiver: bench, group_by: [alertname], group_wait: 0s, group_interval: 10s, repeat_interval: 1d}}
receivers: [{{name: bench, webhook_configs: [{{url: "{receiver.url}", send_resolved: true}}]}}]
""",
        )
        self._closing = threading.Event()
        self._resending = threading.Thread(target=self._resend, args=[resend_seconds], daemon=True)
        if resend_seconds is not None:
            self._resending.start()

    def start(self) -> None:
        self._manager.start()

    def kill(self) -> None:
        self._manager.stop()

    def close(self) -> None:
        self._closing.set()
        if self._resending.ident is not None:
            self._resending.join()
        self._manager.stop()

    def fire(self, alert: str) -> None:
        self._alerts[alert] = {"labels": {"alertname": alert}, "startsAt": _now()}
        self._hand_over(alert)

    def end(self, alert: str) -> None:
        self._alerts[alert] = {**self._alerts[alert], "endsAt": _now()}
        self._hand_over(alert)

    def silence(self, alert: str) -> str:
        return self._tool("silence", "add", f"alertname={alert}", "-d", "1h", "-a", "bench", "-c", "bench").strip()

    def silences(self) -> set[str]:
        return {one["id"] for one in json.loads(self._tool("silence", "query", "-o", "json"))}

    def _tool(self, *arguments: str) -> str:
        amtool = shutil.which("amtool") or str(UNPACKED / "bin" / "amtool")
        command = [amtool, f"--alertmanager.url={self._manager.url}", *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout

    def messages(self, received: Server) -> Iterator[Message]:
        for number, body in enumerate(received.bodies()):
            for one in body["alerts"]:
                yield Message(one["labels"]["alertname"], one["status"], f"{number}")

    def _hand_over(self, alert: str) -> None:
        while not self._post([self._alerts[alert]]):
            time.sleep(TRY_AGAIN_SECONDS)

    def _resend(self, seconds: float) -> None:
        while not self._closing.wait(seconds):
            self._post(list(self._alerts.values()))

    def _post(self, alerts: list[dict[str, Any]]) -> bool:
        """Whether it has taken them."""
        request = urllib.request.Request(
            f"{self._manager.url}/api/v2/alerts", json.dumps(alerts).encode(), {"content-type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except (OSError, HTTPException):  # it is killed now and then
            return False
        return True


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
