"""The process that touches what may hang in the kernel: a script of its own, which imports nothing of rlhfd.

In: one JSON object a line, ``{"statvfs": [path, ...], "top": mount point}`` or ``{"read": [path, ...]}``. Out: one JSON
object a line, path to answer. A read is the beginning of the text (of 4096 bytes, or ``"bytes"``), without zero bytes
at its end, or, if it failed, the errno. A statvfs is ``[path, blocks, available, block bytes, files, available
files]`` of the nearest path upward that is there and may be entered, or the errno. Ends with its stdin.
"""

from __future__ import annotations

import json
import os
import sys

TEXT_BYTES = 4096


def statvfs(path: str, top: str) -> list[object] | int | None:
    """What there is to know of the file system of ``path``, which is mounted at ``top``."""
    while True:
        try:
            found = os.statvfs(path)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            if path == top or len(path) <= 1:
                return error.errno
            path = os.path.dirname(path)
        except OSError as error:
            return error.errno
        else:
            return [path, found.f_blocks, found.f_bavail, found.f_frsize, found.f_files, found.f_favail]


def read(path: str, size: int) -> str | int | None:
    """The beginning of a file."""
    try:
        with open(path, "rb", buffering=0) as opened:
            return opened.read(size).rstrip(b"\0").decode("utf-8", "replace")
    except OSError as error:
        return error.errno


def main() -> None:
    """Answer until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, object] = {path: statvfs(path, request["top"]) for path in request.get("statvfs", ())}
        answer.update({path: read(path, request.get("bytes", TEXT_BYTES)) for path in request.get("read", ())})
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
