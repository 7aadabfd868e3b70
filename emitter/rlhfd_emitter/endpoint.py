"""Where emitter and daemon meet when nobody says otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SOCKET_NAME = "rlhfd.sock"
SYSTEM_DIRECTORY = "/run/rlhfd"
# sun_path holds 108 bytes with the final NUL; libzmq refuses longer ipc paths.
MAX_IPC_PATH_BYTES = 107


def runtime_directory(environ: Mapping[str, str] | None = None) -> Path:
    """The private directory (mode 0700 or 0750) that holds the daemon's sockets.

    ``RLHFD_RUNTIME_DIR`` wins, then the service's ``/run/rlhfd`` if it is there or if we are root, then
    ``XDG_RUNTIME_DIR``, then the user's state directory. Never ``/tmp``: others can create names there.
    """
    environ = os.environ if environ is None else environ
    chosen = environ.get("RLHFD_RUNTIME_DIR")
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0 or os.path.isdir(SYSTEM_DIRECTORY):
        return Path(SYSTEM_DIRECTORY)
    session = environ.get("XDG_RUNTIME_DIR")
    if session:
        return Path(session, "rlhfd")
    return Path(os.path.expanduser("~"), ".local", "state", "rlhfd", "run")


def default_endpoint(environ: Mapping[str, str] | None = None) -> str:
    """The ZeroMQ endpoint: ``RLHFD_ENDPOINT``, or ``ipc://`` plus the socket in :func:`runtime_directory`."""
    environ = os.environ if environ is None else environ
    return environ.get("RLHFD_ENDPOINT") or f"ipc://{runtime_directory(environ) / SOCKET_NAME}"


def ipc_path(endpoint: str) -> str | None:
    """The file system path of an ``ipc://`` endpoint, ``None`` for other transports."""
    return endpoint[len("ipc://") :] if endpoint.startswith("ipc://") else None
