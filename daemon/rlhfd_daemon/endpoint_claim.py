"""Taking an ipc endpoint for ourselves, and only if it is free: libzmq's bind asks nobody."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from rlhfd_daemon.errors import EndpointError
from rlhfd_emitter.endpoint import MAX_IPC_PATH_BYTES, ipc_path

__all__ = ["claim_endpoint"]


def claim_endpoint(endpoint: str) -> int:
    """Make the socket's directory and take the endpoint's lock; returns the lock's descriptor.

    libzmq's bind deletes whatever file is at the path and takes a living daemon's endpoint without a word, so
    both are checked before.

    :raises EndpointError: with the path and what to do.
    """
    path = ipc_path(endpoint)
    if path is None:
        raise EndpointError(f"ingest.endpoint: {endpoint}: only ipc:// endpoints are supported")
    if len(os.fsencode(path)) > MAX_IPC_PATH_BYTES:
        raise EndpointError(f"ingest.endpoint: {path}: longer than {MAX_IPC_PATH_BYTES} bytes; choose a shorter path")
    try:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise EndpointError(f"ingest.endpoint: {path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _refuse_foreign(path)
    except BlockingIOError as error:
        os.close(lock)
        raise EndpointError(f"ingest.endpoint: {path}: another rlhfd daemon listens here") from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def _refuse_foreign(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise EndpointError(f"ingest.endpoint: {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(found.st_mode):
        raise EndpointError(f"ingest.endpoint: {path}: exists and is not a socket; remove it or choose another path")
    if found.st_uid != os.geteuid():
        raise EndpointError(f"ingest.endpoint: {path}: the socket belongs to uid {found.st_uid}, not to us")
