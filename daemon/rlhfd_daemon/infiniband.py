"""Counters of InfiniBand and RoCE ports. Reading one asks the adapter's firmware, which may hang or refuse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from rlhfd_daemon.nodefs import known
from rlhfd_daemon.probe import Prober, Stuck
from rlhfd_daemon.rates import Rates
from rlhfd_daemon.refusals import Refusals

__all__ = ["InfiniBand", "metrics"]

WORD_BYTES = 4  # port_rcv_data and port_xmit_data count these
SATURATED = 0xFFFFFFFF  # a counter of 32 bits stops here
MAX_PORTS = 64
_COUNTERS = ("port_rcv_data", "port_xmit_data", "link_downed", "port_rcv_errors")
_KEY = "infiniband"


class _Port(NamedTuple):
    name: str
    folder: str


class InfiniBand:
    """All ports of the node together. ``sys`` is where sysfs is mounted."""

    def __init__(self, sys: Path, prober: Prober) -> None:
        self._folder = sys / "class" / "infiniband"
        self._prober = prober
        self._refusals = Refusals()
        self._rates = Rates()

    async def poll(self, now: float) -> dict[str, float]:
        """The metrics; none without adapters, and while they do not answer. ``now`` in monotonic seconds."""
        files = {f"{port.folder}/{file}": (port.name, name) for port in self._ports() for name, file in _FILES.items()}
        paths = [path for path in files if self._refusals.allow(path, now)]
        if not paths and _KEY not in self._prober.stuck:
            return {}
        try:
            answer = await self._prober.ask(_KEY, {"read": paths})
        except EOFError:  # somebody killed the child; the next poll has another
            return {}
        if isinstance(answer, Stuck):
            return {}
        values: dict[str, dict[str, int]] = {}
        for path, content in answer.items():
            port, name = files.get(path, ("", ""))
            if isinstance(content, int):
                self._refusals.note(path, content, now)
            elif isinstance(content, str) and (value := _number(content)) is not None:
                values.setdefault(name, {})[port] = value
        return metrics(values, self._rates, now)

    def _ports(self) -> list[_Port]:
        """Listing these folders is the kernel's own affair: no firmware is asked."""
        found = []
        try:
            for device in sorted(os.listdir(self._folder)):
                ports = f"{self._folder}/{device}/ports"
                found += [_Port(f"{device}/{port}", f"{ports}/{port}") for port in sorted(os.listdir(ports))]
        except OSError:
            return []
        return found[:MAX_PORTS]


_FILES = {"state": "state", **{name: f"counters/{name}" for name in _COUNTERS}}


def metrics(values: dict[str, dict[str, int]], rates: Rates, now: float) -> dict[str, float]:
    """From counter to port to value: the node's sums."""
    received = {port: words * WORD_BYTES for port, words in values.get("port_rcv_data", {}).items()}
    sent = {port: words * WORD_BYTES for port, words in values.get("port_xmit_data", {}).items()}
    states = values.get("state", {}).values()
    downed, errors = (list(values.get(name, {}).values()) for name in ("link_downed", "port_rcv_errors"))
    return known({
        "host/infiniband_receive_bytes_per_second": rates.per_second("received", received, now),
        "host/infiniband_transmit_bytes_per_second": rates.per_second("sent", sent, now),
        "host/infiniband_ports_active": sum(state == 4 for state in states) if states else None,
        "host/infiniband_link_downed_total": sum(downed) if downed else None,
        "host/infiniband_receive_errors_total": sum(errors) if errors else None,
    })  # fmt: skip


def _number(content: str) -> int | None:
    """Of a counter, or of a state such as ``4: ACTIVE``."""
    try:
        value = int(content.partition(":")[0])
    except ValueError:
        return None
    return value if 0 <= value != SATURATED else None
