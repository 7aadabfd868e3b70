"""Read a frame log or a shipped recording, whether or not a daemon is writing to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rlhfd_daemon.errors import FrameLogError
from rlhfd_daemon.segment import TORN_TAIL, Damage, Record, scan
from rlhfd_daemon.segment_files import SegmentFile, list_segments, load

__all__ = ["VerifyReport", "read", "tail", "verify"]


@dataclass(frozen=True)
class VerifyReport:
    """What a recording holds. ``first_id`` and ``last_id`` are ``None`` if it has no record; ``gaps`` are the
    missing ids as inclusive (first, last) pairs: damaged, lost to retention, or passed while recording was off.
    ``torn_tail_bytes`` is an unfinished write at the very end; it is no damage, and next start cuts it."""

    segments: int
    records: int
    first_id: int | None
    last_id: int | None
    damages: tuple[Damage, ...]
    gaps: tuple[tuple[int, int], ...]
    torn_tail_bytes: int

    @property
    def ok(self) -> bool:
        """Whether every byte before the end was readable; gaps in the ids are no damage."""
        return not self.damages


def read(path: str | Path) -> Iterator[Record | Damage]:
    """All records of a frame-log directory, of one segment, or of one ``.xz``/``.gz`` segment, in order.

    Damage is reported where it lies and skipped; an unfinished write at the end of the last segment just ends the
    iteration. Segments that retention deletes meanwhile are left out. Memory: one segment at a time.
    Raises :class:`FrameLogError` (when the first item is asked for) if ``path`` cannot be read at all.
    """
    for item in _read_all(_segments(Path(path))):
        if isinstance(item, Record) or item.reason != TORN_TAIL:
            yield item


def tail(directory: str | Path, max_bytes: int) -> Iterator[Record]:
    """The records of the newest whole segments that together hold at most ``max_bytes``, oldest record first.

    The newest segment is always among them unless ``max_bytes`` is 0. Damage is skipped silently.
    """
    chosen: list[SegmentFile] = []
    room = max_bytes
    for segment in reversed(_segments(Path(directory))):
        room -= segment.size
        if max_bytes <= 0 or (chosen and room < 0):
            break
        chosen.insert(0, segment)
    for item in _read_all(chosen):
        if isinstance(item, Record):
            yield item


def verify(path: str | Path) -> VerifyReport:
    """Read everything at ``path`` (as :func:`read` does) and say what is there and what is not."""
    segments = _segments(Path(path))
    damages: list[Damage] = []
    gaps: list[tuple[int, int]] = []
    first_id: int | None = None
    last_id: int | None = None
    records = torn_tail_bytes = 0
    for item in _read_all(segments):
        if isinstance(item, Damage):
            if item.reason == TORN_TAIL:
                torn_tail_bytes = item.length
            else:
                damages.append(item)
            continue
        if last_id is not None and item.id != last_id + 1:
            gaps.append((last_id + 1, item.id - 1))
        first_id = item.id if first_id is None else first_id
        last_id = item.id
        records += 1
    return VerifyReport(len(segments), records, first_id, last_id, tuple(damages), tuple(gaps), torn_tail_bytes)


def _segments(path: Path) -> list[SegmentFile]:
    try:
        if path.is_dir():
            return list_segments(path)
        return [SegmentFile(0, path, path.stat().st_size)]
    except OSError as error:
        raise FrameLogError(f"{path}: cannot read the recording: {error.strerror}") from error


def _read_all(segments: list[SegmentFile]) -> Iterator[Record | Damage]:
    """Records and damages of ``segments``; only the very end can have the reason ``TORN_TAIL``."""
    last_id = 0
    for segment in segments:
        path = str(segment.path)
        try:
            buf = load(segment.path)
        except FileNotFoundError:
            continue  # deleted by the daemon's retention since the directory was listed
        except OSError as error:
            yield Damage(0, segment.size, f"cannot be read: {error.strerror}", path=path)
            continue
        for item in scan(buf, last_id):
            if isinstance(item, Record):
                last_id = item.id
                yield item
            elif item.reason == TORN_TAIL and segment is not segments[-1]:
                yield replace(item, path=path, reason="segment cut short")
            else:
                yield replace(item, path=path)
