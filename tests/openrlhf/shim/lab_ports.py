"""Ports that stay free until they are used: below those that the kernel gives to whoever asks for any.

OpenRLHF and vLLM bind port 0, close the socket, and listen on that port seconds later. With several runs on one machine
some other socket has it by then, one start in some hundreds: EADDRINUSE.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

LOWEST, HIGHEST = 16384, 32767  # Linux gives 32768 to 60999 by itself (net.ipv4.ip_local_port_range)
ATTEMPTS = 64

_bind = socket.socket.bind


def bind_steady(self: socket.socket, address: Any) -> None:
    """``socket.bind``; for port 0 of TCP a random one of the steady ports that is free, or the kernel's choice."""
    if self.type != socket.SOCK_STREAM or self.family not in (socket.AF_INET, socket.AF_INET6) or address[1] != 0:
        return _bind(self, address)
    for _ in range(ATTEMPTS):
        port = LOWEST + int.from_bytes(os.urandom(4), "big") % (HIGHEST - LOWEST + 1)
        try:
            return _bind(self, (address[0], port, *address[2:]))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _bind(self, address)


def install() -> None:
    """Let every socket of this process bind so."""
    socket.socket.bind = bind_steady  # type: ignore[method-assign, assignment]
