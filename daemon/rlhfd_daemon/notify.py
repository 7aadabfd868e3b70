"""Tell systemd how the daemon is (sd_notify), without ever waiting for it or failing because of it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

__all__ = ["Notifier", "watchdog_interval"]


class Notifier:
    """Sends state lines to ``$NOTIFY_SOCKET``; does nothing outside systemd. ``failures_total`` counts lines that
    systemd did not get. Source: sd_notify(3)."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.failures_total = 0

    def ready(self, status: str = "") -> None:
        """Start-up, or the reload announced by :meth:`reloading`, is over."""
        self._send("READY=1", *([_status(status)] if status else []))

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(_status(text))

    def watchdog(self) -> None:
        """Alive; due at least every :func:`watchdog_interval` seconds."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """A reload begins; ends with :meth:`ready`."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Shutdown begins."""
        self._send("STOPPING=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                connection.setblocking(False)
                connection.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError:
            self.failures_total += 1


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())


def watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Seconds between watchdog messages (half of what systemd allows), or ``None`` if it does not wait for any
    from this process."""
    timeout_microseconds = environ.get("WATCHDOG_USEC", "")
    if not timeout_microseconds.isdigit() or int(timeout_microseconds) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(timeout_microseconds) / 2e6
