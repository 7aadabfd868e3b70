"""Writes a sentinel file: whole or not at all, and never through a symbolic link."""

from __future__ import annotations

import os
import re
import stat
from typing import Any

import msgspec

from rlhfd_daemon.actions.act import Act, ActionError

__all__ = ["content_of", "path_of", "write"]

MODE = 0o644  # whoever waits for it need not be the daemon's user
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


def path_of(template: str, act: Act) -> str:
    """Where the file goes. What a run calls itself stays one part of the path."""
    names = {"run": act.run, "boot": act.boot, "rule": act.rule, "episode": act.episode}
    return template.format_map({name: _part(value) for name, value in names.items()})


def content_of(act: Act) -> bytes:
    """What the file says: a JSON object in one line."""
    fields: dict[str, Any] = {
        name: getattr(act, name) for name in ("run", "boot", "episode", "rule", "step", "summary", "name", "decided_at")
    }
    return msgspec.json.encode(fields) + b"\n"


def write(path: str, content: bytes) -> None:
    """Put ``content`` at ``path``, in place of a file that is there. May block. :raises ActionError:"""
    folder, _, name = path.rpartition("/")
    try:
        held = _open_folder(folder)
        try:
            _refuse_other_than_file(name, path, held)
            _replace(name, content, held)
        finally:
            os.close(held)
    except OSError as error:
        raise ActionError(f"{path} cannot be written: {error.strerror}") from error


def _part(value: str) -> str:
    """``value`` as one part of a path, of a length that every file system has room for."""
    part = _UNSAFE.sub("_", value)[:128]
    return f"_{part[1:]}" if part.startswith(".") else part


def _open_folder(folder: str) -> int:
    """A descriptor of ``folder``, part by part: none may be a link, since others may be able to change it."""
    held, done = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), ""
    for part in filter(None, folder.split("/")):
        done = f"{done}/{part}"
        try:
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
        except OSError as error:
            is_link = os.path.islink(done)
            os.close(held)
            if is_link:
                raise ActionError(f"{done} is a symbolic link: write the path that it leads to") from error
            raise ActionError(f"{done}: {error.strerror}") from error
        os.close(held)
        held = below
    return held


def _refuse_other_than_file(name: str, path: str, folder: int) -> None:
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise ActionError(f"{path} is there and no file: it is left as it is")


def _replace(name: str, content: bytes, folder: int) -> None:
    draft = f".{name[:128]}.{os.urandom(6).hex()}"
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE, dir_fd=folder)
    try:
        with os.fdopen(file, "wb") as opened:
            os.fchmod(file, MODE)
            opened.write(content)
            opened.flush()
            os.fsync(file)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(draft, dir_fd=folder)
        raise
