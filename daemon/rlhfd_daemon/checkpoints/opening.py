"""Files of a checkpoint, opened relative to a folder's descriptor: regular ones only, no links, nothing is written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from rlhfd_daemon.checkpoints.defect import Refused, Vanished

__all__ = ["MAX_ENTRIES", "Folder", "Identity", "OpenFile"]

MAX_ENTRIES = 100_000
MAX_EXTENTS = 10_000
SPARSE_FROM = 1 << 20
"""Bytes: smaller files are not looked at for holes."""
PARTS = 16
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device", stat.S_IFBLK: "a block device", stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Identity:
    """Tells whether a file is still the one that was read: device, inode, bytes, time of change in ns since 1970."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Identity:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class OpenFile:
    """A regular file that is open for reading; ``with`` closes it. ``name`` is relative to the folder."""

    def __init__(self, name: str, descriptor: int, found: os.stat_result) -> None:
        self.name = name
        self.descriptor = descriptor
        self.identity = Identity.of(found)

    @property
    def size(self) -> int:
        """Bytes, as of its opening."""
        return self.identity.size

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def check(self) -> None:
        """Raises :class:`Vanished` if the file was deleted or changed since it was opened."""
        with _converted(self.name):
            found = os.fstat(self.descriptor)
        if found.st_nlink == 0:
            raise Vanished(self.name, "was deleted while it was read")
        if Identity.of(found) != self.identity:
            raise Vanished(self.name, "changed while it was read")

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``; raises :class:`Refused` (truncated) or :class:`Vanished`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Refused("truncated", self.name, f"has {self.size} bytes, {offset + length} are needed")
        with _converted(self.name):
            found = os.pread(self.descriptor, length, offset)
        if len(found) < length:  # a read gives 2 GiB at most; or the file was cut off
            buffer = bytearray(length)
            self.fill(memoryview(buffer), offset)
            return bytes(buffer)
        return found

    def fill(self, buffer: memoryview, offset: int) -> None:
        """As :meth:`read`, into ``buffer`` (bytes)."""
        done = 0
        while done < len(buffer):
            with _converted(self.name):
                got = os.preadv(self.descriptor, [buffer[done:]], offset + done)
            if got == 0:
                self.check()
                raise Refused("truncated", self.name, f"ends at byte {offset + done}", size=self.size)
            done += got

    def refuse_if_sparse(self) -> None:
        """Raises :class:`Refused` if less than half of it was ever written: reading it would be reading zeros."""
        with _converted(self.name):
            found = os.fstat(self.descriptor)
            if found.st_size < SPARSE_FROM or found.st_blocks * 512 >= found.st_size // 2:
                return
            written = self._written(found.st_size // 2)
        if written < found.st_size // 2:
            raise Refused(
                "limit", self.name, f"of {found.st_size} bytes only {written} were ever written: a sparse file",
                size=found.st_size, written=written,
            )  # fmt: skip

    def _written(self, enough: int) -> int:
        """Bytes outside holes. Blocks that a file system compressed or has yet to place are data, too."""
        total = position = 0
        for _ in range(MAX_EXTENTS):
            try:
                start = os.lseek(self.descriptor, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # holes to the end
                    break
                raise
            position = os.lseek(self.descriptor, start, os.SEEK_HOLE)
            total += position - start
            if total >= enough:
                break
        return total


class Folder:
    """A folder, by its descriptor: a rename or a link that takes its place changes nothing. ``with`` closes it."""

    def __init__(self, descriptor: int, name: str = "") -> None:
        self.descriptor = descriptor
        self.name = name  # relative to the folder that the user named; empty for that one

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Folder:
        """The folder that the user named; links on the way to it are followed, as it is the user's word."""
        with _converted(os.fspath(path)):
            return cls(os.open(path, _FOLDER))

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def names(self) -> list[str]:
        """What is in it, sorted. Raises :class:`Refused` (limit) beyond ``MAX_ENTRIES`` entries."""
        found: list[str] = []
        with _converted(self.name or "."), os.scandir(self.descriptor) as entries:
            for entry in entries:
                found.append(entry.name)
                if len(found) > MAX_ENTRIES:
                    raise Refused("limit", self.name or ".", f"holds more than {MAX_ENTRIES} entries")
        return sorted(found)

    def folder(self, name: str) -> Folder:
        """The folder ``name`` directly in this one; never through a link."""
        where = self._named(_part(name))
        self._expect(name, where, stat.S_IFDIR)
        with _converted(where):
            return Folder(os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.descriptor), where)

    def file(self, name: str, expected: Identity | None = None) -> OpenFile:
        """The regular file ``name``, which may be ``folder/file``.

        Raises :class:`Refused` for anything else and for a sparse file, :class:`Vanished` if there is none or if it
        is not ``expected``.
        """
        if name.count("/") >= PARTS:
            raise Refused("limit", name[:200], f"lies more than {PARTS} folders deep")
        first, slash, rest = name.partition("/")
        if slash:
            for part in rest.split("/"):
                _part(part)
            with self.folder(first) as inner:
                return inner.file(rest, expected)
        where = self._named(_part(name))
        self._expect(name, where, stat.S_IFREG)  # first: opening a device or a pipe may do something to it
        with _converted(where):
            descriptor = os.open(name, _FILE, dir_fd=self.descriptor)
        try:
            with _converted(where):
                found = os.fstat(descriptor)
            _refuse_unless(stat.S_IFREG, found.st_mode, where)
            opened = OpenFile(where, descriptor, found)
            if expected is not None and opened.identity != expected:
                raise Vanished(where, "was replaced")
            opened.refuse_if_sparse()
        except BaseException:
            os.close(descriptor)
            raise
        return opened

    def _named(self, name: str) -> str:
        return f"{self.name}/{name}" if self.name else name

    def _expect(self, name: str, where: str, kind: int) -> None:
        with _converted(where):
            found = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        _refuse_unless(kind, found.st_mode, where)


def _part(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(name) > 255:
        raise Refused("malformed", name[:200], "is not the name of a file")
    return name


def _refuse_unless(kind: int, mode: int, where: str) -> None:
    if stat.S_IFMT(mode) != kind:
        raise Refused("special", where, f"is {_KINDS.get(stat.S_IFMT(mode), 'not a regular file')}")


@contextmanager
def _converted(name: str) -> Iterator[None]:
    """Errors of the system become ours."""
    try:
        yield
    except OSError as error:
        _convert(name, error)


def _convert(name: str, error: OSError) -> NoReturn:
    # EWOULDBLOCK: somebody holds a lease, so it is being written. ESTALE: deleted on the server.
    if error.errno in (errno.ENOENT, errno.ESTALE, errno.EWOULDBLOCK):
        raise Vanished(name) from error
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV):
        raise Refused("special", name, "is a link, or not what it was a moment ago") from error
    if error.errno in (errno.EILSEQ, errno.ENAMETOOLONG, errno.EINVAL):
        raise Refused("malformed", name[:200], "is not the name of a file") from error
    raise Refused("io", name, f"cannot be read: {os.strerror(error.errno or 0)}") from error
