"""The frame log's writer: append, rotate, keep within the disk budget, and survive whatever the disk does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import structlog

from rlhfd_daemon.errors import FrameLogError
from rlhfd_daemon.recording import VerifyReport, read, tail, verify
from rlhfd_daemon.recovery import Recovery, recover
from rlhfd_daemon.segment import SEGMENT_HEADER, Damage, Record, encode_record
from rlhfd_daemon.segment_files import QUARANTINE, SegmentFile, list_segments, segment_name

__all__ = ["Damage", "FrameLog", "FrameLogStats", "Record", "VerifyReport", "read", "tail", "verify"]

RETRY_SECONDS = 5.0
# Rotated files wait for sync() to reach the disk; past this many append() does that itself.
MAX_UNSYNCED_SEGMENTS = 4

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class FrameLogStats:
    """``segments`` and ``bytes`` are what is on disk now (quarantine counts in the bytes only), ``records`` what
    this process wrote, ``last_id`` the id given out last, ``degraded`` why nothing is recorded at present."""

    segments: int
    bytes: int
    records: int
    last_id: int
    unrecorded_total: int
    quarantined_total: int
    corrupt_records_total: int
    degraded: str | None


class FrameLog:
    """Append-only log of received frames in one directory, which must be locked by the caller (StateLock).

    ``append`` belongs to one thread; ``sync`` may run in another one at the same time. No disk error ever gets
    out of either: recording stops, is counted, and is tried again every 5 s of ``clock`` (monotonic seconds).
    The files never hold more than ``max_bytes``: the quarantine is emptied first, then the oldest segments go.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        segment_bytes: int = 16 << 20,
        max_bytes: int = 1 << 30,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < 2 * segment_bytes <= max_bytes:
            raise ValueError("max_bytes must hold at least two segments")
        self.directory = Path(directory)
        self._segment_bytes = segment_bytes
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = Lock()
        self._is_open = False
        self._fd: int | None = None
        self._segments: list[SegmentFile] = []  # oldest first, without the one being written
        self._quarantine: list[SegmentFile] = []
        self._path = self.directory
        self._size = 0  # of the segment being written
        self._next_id = 1
        self._dirty = False
        self._new_name = False
        self._unsynced: list[int] = []
        self._degraded: str | None = None
        self._retry_at = 0.0
        self._records = self._unrecorded = self._quarantined = self._corrupt = 0

    def open(self, minimum_next_id: int = 1) -> None:
        """Recover what is there and get ready to append; never fails because of what the directory holds.

        Ids go on after the last one on disk. ``minimum_next_id`` lifts them over ids that others still remember
        (alerts decided through record N) but a power cut took from this log.
        """
        with self._lock:
            if self._is_open:
                raise FrameLogError(f"{self.directory}: the frame log is already open")
            self._is_open = True
            found = recover(self.directory)
            self._next_id = max(found.next_id, minimum_next_id)
            self._quarantined = found.quarantined
            self._corrupt = found.corrupt
            try:
                if found.last is None or found.last.size >= self._segment_bytes:
                    self._start_segment()
                else:
                    self._continue_segment(found)
            except OSError as error:
                self._degrade(error)

    @property
    def segment(self) -> Path:
        """The segment that was written last; another one than before after a rotation."""
        return self._path

    def append(self, payloads: Sequence[tuple[int, int, int, bytes]]) -> list[int]:
        """Write ``(received_ns, uid, pid, frame bytes)`` items with one system call and return their ids.

        Ids are given out and go on whether or not the disk takes the records; those it did not take are counted
        in ``unrecorded_total``. Raises :class:`FrameLogError` for a payload over 1 MiB and when not open.
        """
        with self._lock:
            if not self._is_open:
                raise FrameLogError(f"{self.directory}: the frame log is not open")
            first_id = self._next_id
            data = b"".join([encode_record(first_id + index, *item) for index, item in enumerate(payloads)])
            if not payloads:
                return []
            if self._record(data):
                self._records += len(payloads)
            else:
                self._unrecorded += len(payloads)
            self._next_id += len(payloads)
            return list(range(first_id, self._next_id))

    def sync(self) -> None:
        """Make what was appended before this call durable (fdatasync in the calling thread, without the lock)."""
        with self._lock:
            rotated, self._unsynced = self._unsynced, []
            current = os.dup(self._fd) if self._fd is not None and self._dirty else None
            new_name, self._new_name = self._new_name, False
            self._dirty = False
        descriptors = rotated if current is None else [*rotated, current]
        failure: OSError | None = None
        for fd in descriptors:
            try:
                _sync_and_close(fd)
            except OSError as error:
                failure = error
        if new_name and failure is None:
            failure = _sync_directory(self.directory)
        if failure is not None:
            # The kernel reports lost pages once and then calls them clean, so the file cannot be trusted further.
            with self._lock:
                self._degrade(failure)

    def close(self) -> None:
        """Sync and close; safe to call twice. ``append`` is an error afterwards."""
        self.sync()
        with self._lock:
            self._is_open = False
            self._retire()
        self.sync()

    def stats(self) -> FrameLogStats:
        """Counters and sizes as they are now; may be called from any thread."""
        with self._lock:
            return FrameLogStats(
                segments=len(self._segments) + (self._fd is not None),
                bytes=self._total_bytes(),
                records=self._records,
                last_id=self._next_id - 1,
                unrecorded_total=self._unrecorded,
                quarantined_total=self._quarantined,
                corrupt_records_total=self._corrupt,
                degraded=self._degraded,
            )

    def _record(self, data: bytes) -> bool:
        if self._fd is None and self._clock() < self._retry_at:
            return False
        try:
            self._prepare(len(data))
            self._write(data)
        except OSError as error:
            self._degrade(error)
            return False
        if self._degraded is not None:
            log.info("frame log records again", directory=str(self.directory), unrecorded=self._unrecorded)
            self._degraded = None
        return True

    def _prepare(self, incoming: int) -> None:
        """Have an open segment and, within the budget, room for ``incoming`` bytes."""
        if self._fd is not None and os.fstat(self._fd).st_nlink == 0:
            log.warning("frame log segment was deleted by someone else", path=str(self._path))
            self._retire()
        has_records = self._size > len(SEGMENT_HEADER)
        if self._fd is not None and has_records and self._size + incoming > self._segment_bytes:
            self._retire()
        while len(self._unsynced) > MAX_UNSYNCED_SEGMENTS:
            _sync_and_close(self._unsynced.pop(0))
        if self._fd is None:
            self._start_segment()
        self._make_room(incoming)

    def _write(self, data: bytes) -> None:
        if self._fd is None:
            raise OSError("no segment is open")
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self._size += len(data)
        self._dirty = True

    def _start_segment(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._relist()
        self._make_room(len(SEGMENT_HEADER))
        self._path = self.directory / segment_name(self._next_id)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = 0
        self._new_name = True
        self._write(SEGMENT_HEADER)

    def _continue_segment(self, found: Recovery) -> None:
        if found.last is None:
            raise OSError("no segment to continue")
        self._relist()
        self._path = found.last.path
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._size = found.last.size
        self._segments = [segment for segment in self._segments if segment.path != self._path]
        self._make_room(0)

    def _relist(self) -> None:
        self._segments = list_segments(self.directory)
        folder = self.directory / QUARANTINE
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        paths = [folder / name for name in names]
        self._quarantine = [SegmentFile(0, path, path.lstat().st_size) for path in paths if path.is_file()]

    def _total_bytes(self) -> int:
        return self._size + sum(segment.size for segment in (*self._segments, *self._quarantine))

    def _make_room(self, incoming: int) -> None:
        """Delete quarantined files, then segments, oldest first, until ``incoming`` bytes fit the budget."""
        if self._size + incoming > self._max_bytes:
            raise OSError(f"{incoming} bytes at once do not fit max_bytes {self._max_bytes}")
        while self._total_bytes() + incoming > self._max_bytes:
            oldest = self._quarantine or self._segments
            oldest[0].path.unlink(missing_ok=True)
            del oldest[0]

    def _retire(self) -> None:
        """Stop writing to the current segment and leave its last sync and its closing to :meth:`sync`."""
        if self._fd is None:
            return
        self._unsynced.append(self._fd)
        self._segments.append(SegmentFile(0, self._path, self._size))
        self._fd, self._size, self._dirty = None, 0, False

    def _degrade(self, error: OSError) -> None:
        """Stop recording until the next try; what a failed write left behind is cut off."""
        self._retry_at = self._clock() + RETRY_SECONDS
        if self._degraded is None:
            log.error("frame log cannot record", directory=str(self.directory), error=str(error))
        self._degraded = error.strerror or str(error)
        if self._fd is None:
            return
        try:
            os.ftruncate(self._fd, self._size)
            if self._size <= len(SEGMENT_HEADER):
                self._path.unlink(missing_ok=True)
        except OSError as cause:
            log.warning("frame log segment keeps a partial record", path=str(self._path), error=str(cause))
        self._retire()


def _sync_and_close(fd: int) -> None:
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _sync_directory(directory: Path) -> OSError | None:
    """Make new names durable: without it a power cut can take a whole synced file."""
    try:
        _sync_and_close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        return error
    return None
