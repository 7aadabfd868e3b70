"""A log file as bytes and lines: plain, gzip or xz by content; never more than a line in memory, never endless."""

from __future__ import annotations

import gzip
import lzma
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.traces.row import Damaged, Report

__all__ = ["HEAD_BYTES", "Line", "Source"]

HEAD_BYTES = 1 << 18
MAX_LINE_BYTES = 16 << 20
BOM = b"\xef\xbb\xbf"
GZIP, XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
_BROKEN = (OSError, zlib.error, lzma.LZMAError)  # gzip.BadGzipFile is an OSError


class Line(NamedTuple):
    """``number`` from 1; ``text`` without the line's end. ``ended``: the end was there; only the last may lack it."""

    number: int
    text: str
    ended: bool


class Source:
    """One regular file. Where it is damaged is told to ``report``; an archive that is cut short just ends, since its
    writer may be at work."""

    def __init__(self, path: Path, report: Report = lambda _damaged: None) -> None:
        self.path = path
        self._report = report

    def damaged(self, where: str, why: str) -> None:
        """Tell of a place that is passed over."""
        self._report(Damaged(f"{self.path}: {where}", why))

    def head(self) -> bytes:
        """The first bytes, unpacked; :class:`TraceError` if there is nothing to read."""
        with self.open() as file:
            taken = b""
            try:
                while len(taken) < HEAD_BYTES and (more := file.read(HEAD_BYTES - len(taken))):
                    taken += more
            except EOFError:
                pass
            except _BROKEN as error:
                raise TraceError(f"{self.path}: damaged archive or unreadable file: {error}") from error
        if not taken:
            raise TraceError(f"{self.path}: empty; has the run logged anything yet?")
        return taken.removeprefix(BOM)

    def open(self) -> IO[bytes]:
        """The unpacked bytes. :class:`TraceError` for what is no regular file or may not be read."""
        try:
            # Before opening: a FIFO would wait for a writer.
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise TraceError(f"{self.path}: neither a regular file nor a folder; write the log to a file first")
            file = self.path.open("rb")
            start = file.read(len(XZ))
            file.seek(0)
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be read: {error.strerror}") from error
        if start.startswith(GZIP):
            file.close()
            return cast("IO[bytes]", gzip.open(self.path, "rb"))
        if start == XZ:
            file.close()
            return lzma.open(self.path, "rb")
        return file

    def read(self, file: IO[bytes], size: int) -> bytes:
        """Up to ``size`` bytes; fewer at the end, or where a damaged archive cannot be unpacked any further."""
        taken = b""
        try:
            while len(taken) < size and (more := file.read(size - len(taken))):
                taken += more
        except EOFError:
            pass
        except _BROKEN as error:
            self.damaged("from here on", f"the rest cannot be unpacked: {error}")
        return taken

    def lines(self) -> Iterator[Line]:
        """All lines, with bytes that are no UTF-8 replaced. One that is too long is damaged."""
        with self.open() as file:
            number = 0
            while raw := self._line(file, number):
                number += 1
                if len(raw) > MAX_LINE_BYTES:
                    self.damaged(f"line {number}", f"longer than {MAX_LINE_BYTES >> 20} MiB")
                    while raw and not raw.endswith(b"\n"):
                        raw = self._line(file, number)
                    continue
                if number == 1:
                    raw = raw.removeprefix(BOM)
                yield Line(number, raw.decode("utf-8", "replace").rstrip("\r\n"), raw.endswith(b"\n"))

    def _line(self, file: IO[bytes], after: int) -> bytes:
        try:
            return file.readline(MAX_LINE_BYTES + 1)
        except EOFError:
            return b""
        except _BROKEN as error:
            self.damaged(f"after line {after}", f"the rest cannot be unpacked: {error}")
            return b""
