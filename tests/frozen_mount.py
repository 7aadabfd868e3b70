"""A file system that never answers: who opens a file on it hangs in the kernel (state D) and cannot be killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["frozen_mount"]

INIT, OUT_HEADER = 26, struct.Struct("<IiQ")
MNT_DETACH = 2


def _serve(fd: int) -> None:
    """Answers FUSE_INIT, takes every other request and says nothing: what was taken can no longer be interrupted."""
    with contextlib.suppress(OSError):
        while request := os.read(fd, 1 << 17):
            _, opcode, unique = struct.unpack_from("<IIQ", request)
            if opcode == INIT:
                body = struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 1, 1, 4096, 1, 0, 0, 0)
                os.write(fd, OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, unique) + body)


@contextlib.contextmanager
def frozen_mount(path: Path) -> Iterator[Path]:
    """Mounted at ``path``; skips the test where that is not allowed. At the end all who hang are freed."""
    libc = ctypes.CDLL(None, use_errno=True)
    path.mkdir()
    try:
        fd = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"rlhfd-test", bytes(path), b"fuse", 0, options) != 0:
        os.close(fd)
        pytest.skip(f"may not mount: {os.strerror(ctypes.get_errno())}")
    server = threading.Thread(target=_serve, args=(fd,), daemon=True)
    server.start()
    try:
        yield path
    finally:
        libc.umount2(bytes(path), 1 | MNT_DETACH)  # MNT_FORCE ends every pending request
        server.join(5)
        os.close(fd)
