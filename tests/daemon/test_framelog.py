"""The frame log: nothing acknowledged is lost, nothing on disk stops a start, the disk budget holds."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhfd_daemon.errors import FrameLogError
from rlhfd_daemon.framelog import Damage, FrameLog, Record, read, tail, verify
from rlhfd_daemon.segment import RECORD_HEADER_BYTES, SEGMENT_HEADER, encode_record


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def frames(count: int, size: int = 20) -> list[tuple[int, int, int, bytes]]:
    return [(1_000 + index, 1000, 42, bytes([index % 256]) * size) for index in range(count)]


def opened(directory: Path, *, segment_bytes: int = 1000, max_bytes: int = 1 << 20) -> FrameLog:
    log = FrameLog(directory, segment_bytes=segment_bytes, max_bytes=max_bytes, clock=Clock())
    log.open()
    return log


def filled(directory: Path, count: int) -> None:
    log = opened(directory)
    for item in frames(count):
        log.append([item])
    log.close()


def ids(source: Path) -> list[int]:
    return [item.id for item in read(source) if isinstance(item, Record)]


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("frames-*.log"))


def test_appended_frames_are_read_back_across_segments(tmp_path: Path) -> None:
    log = opened(tmp_path)
    assert log.append(frames(3)) == [1, 2, 3]
    assert log.append([]) == []
    assert log.append(frames(40)) == list(range(4, 44))
    assert log.append(frames(1)) == [44]
    log.close()
    records = list(read(tmp_path))
    assert [(r.received_ns, r.uid, r.pid, r.payload) for r in records if isinstance(r, Record)] == [
        *frames(3), *frames(40), *frames(1),
    ]  # fmt: skip
    assert [path.name for path in segments(tmp_path)] == [f"frames-{first:016d}.log" for first in (1, 4, 44)]
    assert stat.S_IMODE(segments(tmp_path)[0].stat().st_mode) == 0o600


def test_ids_go_on_after_a_restart_in_the_same_segment(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    log = opened(tmp_path)
    assert log.append(frames(1)) == [4]
    log.close()
    assert ids(tmp_path) == [1, 2, 3, 4]
    assert len(segments(tmp_path)) == 1


def test_ids_never_fall_behind_what_others_remember(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    log = FrameLog(tmp_path)
    log.open(minimum_next_id=100)
    assert log.append(frames(1)) == [100]
    log.close()
    assert verify(tmp_path).gaps == ((4, 99),)


@pytest.mark.parametrize("cut", range(1, RECORD_HEADER_BYTES + 20))
def test_promise_C2_a_torn_tail_is_cut_and_the_log_goes_on(tmp_path: Path, cut: int) -> None:
    filled(tmp_path, 5)
    path = segments(tmp_path)[-1]
    os.truncate(path, path.stat().st_size - cut)
    assert verify(tmp_path).torn_tail_bytes == RECORD_HEADER_BYTES + 20 - cut
    assert [type(item) for item in read(tmp_path)] == [Record] * 4
    log = opened(tmp_path)
    assert log.stats().corrupt_records_total == 0
    assert log.append(frames(1)) == [5]
    log.close()
    report = verify(tmp_path)
    assert (report.records, report.damages, report.gaps, report.torn_tail_bytes) == (5, (), (), 0)


def test_promise_C2_a_corrupt_record_is_skipped_and_counted(tmp_path: Path) -> None:
    filled(tmp_path, 5)
    path = segments(tmp_path)[0]
    content = bytearray(path.read_bytes())
    content[len(SEGMENT_HEADER) + 60] ^= 1
    path.write_bytes(content)
    log = opened(tmp_path)
    assert log.stats().corrupt_records_total == 1
    assert log.append(frames(1)) == [6]
    log.close()
    report = verify(tmp_path)
    assert (report.records, report.first_id, report.last_id, report.gaps) == (5, 1, 6, ((2, 2),))
    assert [(damage.path, damage.reason) for damage in report.damages] == [(str(path), "corrupt record")]
    assert not report.ok


def _unreadable(path: Path) -> None:
    path.unlink()
    os.symlink("/nonexistent", path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SPOILED: dict[str, Callable[[Path], object]] = {
    "zero bytes": lambda path: path.write_bytes(b""),
    "half a header": lambda path: path.write_bytes(SEGMENT_HEADER[:7]),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "bad magic": lambda path: path.write_bytes(b"X" + path.read_bytes()[1:]),
    "future version": lambda path: path.write_bytes(SEGMENT_HEADER[:8] + b"\x02" + path.read_bytes()[9:]),
    "link": _unreadable,
    "directory": _directory,
    "fifo": _fifo,
}


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("which", [0, -1])
def test_promise_C3_a_bad_segment_is_set_aside_and_never_blocks_a_start(tmp_path: Path, how: str, which: int) -> None:
    filled(tmp_path, 50)
    spoiled = segments(tmp_path)[which]
    kept = [record_id for path in segments(tmp_path) if path != spoiled for record_id in ids(path)]
    SPOILED[how](spoiled)
    log = opened(tmp_path)
    (new,) = log.append(frames(1))
    log.close()
    assert log.stats().quarantined_total == 1
    assert [path.name for path in (tmp_path / "quarantine").iterdir()] == [spoiled.name]
    assert ids(tmp_path) == [*kept, new]
    assert new > max(kept)


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root reads everything")
def test_promise_C3_a_segment_without_permission_is_set_aside(tmp_path: Path) -> None:
    filled(tmp_path, 50)
    segments(tmp_path)[-1].chmod(0)
    code = (
        "import sys; from rlhfd_daemon.framelog import FrameLog; log = FrameLog(sys.argv[1]); log.open();"
        "print(log.append([(1, 2, 3, b'x')])[0], log.stats().quarantined_total, log.stats().degraded)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    if os.geteuid() == 0:
        # Root without the capabilities that let it pass over permissions.
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    new, quarantined, degraded = output.split()
    assert (int(new) > 50, quarantined, degraded) == (True, "1", "None")


def test_when_every_segment_is_bad_ids_go_on_after_the_file_names(tmp_path: Path) -> None:
    filled(tmp_path, 50)
    for path in segments(tmp_path):
        path.write_bytes(b"")
    highest = int(segments(tmp_path)[-1].stem.partition("-")[2])
    log = opened(tmp_path)
    assert log.append(frames(1)) == [highest]
    log.close()


def test_a_quarantine_that_is_in_the_way_does_not_block_a_start(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    segments(tmp_path)[0].write_bytes(b"noise that is long enough")
    (tmp_path / "quarantine").write_text("a file where the folder should be")
    log = opened(tmp_path)
    log.append(frames(1))
    assert log.stats().quarantined_total == 1
    log.close()


def test_promise_C5_disk_use_stays_within_the_cap_and_the_oldest_goes_first(tmp_path: Path) -> None:
    cap = 10_000
    log = opened(tmp_path, segment_bytes=2_000, max_bytes=cap)
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine" / "frames-0000000000000000.log").write_bytes(bytes(3_000))
    log.close()
    log = opened(tmp_path, segment_bytes=2_000, max_bytes=cap)
    for _ in range(300):
        log.append(frames(7, size=100))
        on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*.log"))
        assert on_disk == log.stats().bytes <= cap
    log.close()
    found = ids(tmp_path)
    assert found == list(range(found[0], 2101))
    assert len(found) * 100 > cap / 2
    assert not list((tmp_path / "quarantine").iterdir())


def test_a_batch_larger_than_the_cap_is_counted_and_deletes_nothing(tmp_path: Path) -> None:
    log = opened(tmp_path, segment_bytes=1_000, max_bytes=4_000)
    log.append(frames(20))
    log.append(frames(300))
    assert log.stats().unrecorded_total == 300
    log.close()
    assert ids(tmp_path) == list(range(1, 21))


LIMITED = """
import resource, sys
from pathlib import Path
from rlhfd_daemon import logs
from rlhfd_daemon.framelog import FrameLog, verify
logs.configure()  # as the daemon does: the limit below also hits a standard error that is a file
directory, now = Path(sys.argv[1]), [0.0]
log = FrameLog(directory, clock=lambda: now[0])
log.open()
log.append([(1, 2, 3, b"before")])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for _ in range(3):
    log.append([(1, 2, 3, b"x" * 100), (1, 2, 3, b"y")])
assert log.stats().unrecorded_total == 6, log.stats()
assert log.stats().degraded == "File too large", log.stats()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
now[0] = 4.9
assert log.append([(1, 2, 3, b"too early")]) == [8]
assert log.stats().degraded
now[0] = 5.0
assert log.append([(1, 2, 3, b"after")]) == [9]
assert log.stats().degraded is None and log.stats().unrecorded_total == 7, log.stats()
log.close()
report = verify(directory)
assert (report.records, report.damages, report.gaps) == (2, (), ((2, 8),)), report
assert report.torn_tail_bytes == 0
"""


def test_a_write_that_fails_half_way_is_cut_off_and_recording_resumes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], check=True, timeout=30)


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs is not permitted here")
    return tmp_path


def test_promise_C4_a_full_disk_stops_recording_until_there_is_room(
    small_disk: Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: subprocess.run(["umount", "-l", str(small_disk)], check=True))
    clock = Clock()
    log = FrameLog(small_disk / "frames", clock=clock)
    log.open()
    given: list[int] = []
    while log.stats().degraded is None:
        given += log.append(frames(10, size=1000))
    for _ in range(20):
        clock.now += 5
        given += log.append(frames(10, size=1000))
    assert log.stats().degraded == "No space left on device"
    assert len(segments(small_disk / "frames")) == 1
    recorded = ids(small_disk / "frames")
    assert log.stats().unrecorded_total == len(given) - len(recorded)
    segments(small_disk / "frames")[0].unlink()
    log.sync()  # gives back the last hold on the deleted file
    clock.now += 5
    new = log.append(frames(10, size=1000))
    assert given == list(range(1, new[0]))
    assert log.stats().degraded is None
    log.close()
    assert ids(small_disk / "frames") == new


def test_promise_C7_a_deleted_directory_comes_back(tmp_path: Path) -> None:
    log = opened(tmp_path / "frames")
    log.append(frames(3))
    shutil.rmtree(tmp_path / "frames")
    assert log.append(frames(2)) == [4, 5]
    log.sync()
    assert log.stats().degraded is None
    log.close()
    assert ids(tmp_path / "frames") == [4, 5]


def test_promise_C7_a_directory_that_cannot_be_used_degrades_and_recovers(tmp_path: Path) -> None:
    (tmp_path / "frames").write_text("in the way")
    clock = Clock()
    log = FrameLog(tmp_path / "frames", clock=clock)
    log.open()
    assert log.append(frames(2)) == [1, 2]
    assert log.stats().degraded
    (tmp_path / "frames").unlink()
    clock.now += 5
    assert log.append(frames(1)) == [3]
    assert log.stats().degraded is None
    assert log.stats().unrecorded_total == 2
    log.close()
    assert ids(tmp_path / "frames") == [3]


WRITER = """
import sys
from rlhfd_daemon.framelog import FrameLog
log = FrameLog(sys.argv[1], segment_bytes=4096, max_bytes=1 << 26)
log.open()
while True:
    print(*log.append([(1, 2, 3, b"frame %d" % index) for index in range(3)]), flush=True)
"""


@pytest.mark.parametrize("printed", [1, 20, 300])
def test_promise_C1_after_kill_9_every_acknowledged_record_is_there(tmp_path: Path, printed: int) -> None:
    acknowledged: list[int] = []
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(printed)]
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate()
        whole = "".join(lines) + rest
        acknowledged += [int(word) for word in whole[: whole.rfind("\n")].split() if word.isdigit()]
    recorded = ids(tmp_path)
    assert set(acknowledged) <= set(recorded)
    assert recorded == list(range(1, recorded[-1] + 1))
    assert verify(tmp_path).ok


def test_a_reader_beside_a_writer_sees_whole_records_in_order(tmp_path: Path) -> None:
    log = opened(tmp_path, segment_bytes=20_000)
    log.append(frames(1))
    stop = threading.Event()

    def write() -> None:
        for _ in range(400):
            log.append(frames(20, size=50))
            if stop.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = 0
        while writer.is_alive():
            items = list(read(tmp_path))
            assert not [item for item in items if isinstance(item, Damage)]
            found = [item.id for item in items if isinstance(item, Record)]
            assert found == list(range(1, len(found) + 1))
            assert len(found) >= seen
            seen = len(found)
            log.sync()
    finally:
        stop.set()
        writer.join()
    log.close()
    assert len(ids(tmp_path)) == 8001


def test_rotated_files_are_not_kept_open_even_without_sync(tmp_path: Path) -> None:
    log = opened(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(40):
        log.append(frames(30))
    assert len(os.listdir("/proc/self/fd")) <= before + 6
    log.sync()
    assert len(os.listdir("/proc/self/fd")) == before
    log.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    log.close()


def test_sync_reaches_the_disk_for_every_file_written_since_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    log = opened(tmp_path)
    log.append(frames(3))
    log.append(frames(30))
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    log.sync()
    log.sync()
    assert synced == [*(path.name for path in segments(tmp_path)), tmp_path.name]
    log.append(frames(1))
    log.sync()
    assert synced[3:] == [*(path.name for path in segments(tmp_path)[1:]), tmp_path.name]
    log.close()


def test_a_sync_that_fails_is_reported_and_a_new_segment_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fdatasync(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    clock = Clock()
    log = FrameLog(tmp_path, clock=clock)
    log.open()
    log.append(frames(1))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fdatasync)
        log.sync()
    assert log.stats().degraded == "Input/output error"
    clock.now += 5
    log.append(frames(1))
    log.sync()
    assert log.stats().degraded is None
    log.close()
    assert ids(tmp_path) == [1, 2]
    assert len(segments(tmp_path)) == 2


def test_append_needs_an_open_log(tmp_path: Path) -> None:
    log = FrameLog(tmp_path)
    with pytest.raises(FrameLogError, match="not open"):
        log.append(frames(1))
    log.open()
    with pytest.raises(FrameLogError, match="already open"):
        log.open()
    log.close()
    with pytest.raises(FrameLogError, match="not open"):
        log.append(frames(1))


def test_a_payload_that_is_too_large_changes_nothing(tmp_path: Path) -> None:
    log = opened(tmp_path)
    with pytest.raises(FrameLogError, match="does not fit"):
        log.append([*frames(1), (1, 1, 1, bytes(2 << 20))])
    assert log.append(frames(1)) == [1]
    log.close()


@pytest.mark.parametrize(("suffix", "pack"), [(".xz", lzma.compress), (".gz", gzip.compress), ("", bytes)])
def test_a_single_segment_is_read_packed_or_not(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"demo.log{suffix}"
    path.write_bytes(pack(SEGMENT_HEADER + encode_record(7, 1, 2, 3, b"a") + encode_record(9, 1, 2, 3, b"b")))
    assert ids(path) == [7, 9]
    assert verify(path).gaps == ((8, 8),)


@pytest.mark.parametrize("name", ["cut.xz", "cut.gz", "missing.log"])
def test_a_recording_that_cannot_be_read_is_one_clear_error(tmp_path: Path, name: str) -> None:
    packed = {"cut.xz": lzma.compress(bytes(9999)), "cut.gz": gzip.compress(bytes(9999))}
    if name in packed:
        (tmp_path / name).write_bytes(packed[name][:-12])
    with pytest.raises(FrameLogError, match=name):
        list(read(tmp_path / name))


def test_tail_gives_the_newest_whole_segments_oldest_record_first(tmp_path: Path) -> None:
    filled(tmp_path, 60)
    *_, second, last = segments(tmp_path)
    size = second.stat().st_size + last.stat().st_size
    assert [record.id for record in tail(tmp_path, size)] == ids(second) + ids(last)
    assert [record.id for record in tail(tmp_path, size - 1)] == ids(last)
    assert [record.id for record in tail(tmp_path, 1)] == ids(last)
    assert [record.id for record in tail(tmp_path, 1 << 20)] == list(range(1, 61))
    assert list(tail(tmp_path, 0)) == []


def test_a_segment_cut_short_before_the_last_one_is_reported(tmp_path: Path) -> None:
    filled(tmp_path, 60)
    first = segments(tmp_path)[0]
    os.truncate(first, first.stat().st_size - 1)
    assert [damage.reason for damage in verify(tmp_path).damages] == ["segment cut short"]


def test_an_empty_directory_is_an_empty_recording(tmp_path: Path) -> None:
    report = verify(tmp_path)
    assert (report.segments, report.records, report.first_id, report.ok) == (0, 0, None, True)


def test_a_cap_below_two_segments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two segments"):
        FrameLog(tmp_path, segment_bytes=1000, max_bytes=1999)
