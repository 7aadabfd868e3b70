"""Files are opened by their folder's descriptor: regular ones only, nothing is followed, what vanishes is no defect."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhfd_daemon.checkpoints.defect import KINDS, Refused, Vanished
from rlhfd_daemon.checkpoints.health import KINDS as ISSUES
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.reading import blocks
from rlhfd_daemon.checkpoints.tensor import Tensor


def refused(folder: Path, name: str) -> str:
    with Folder.open(folder) as opened, pytest.raises(Refused) as caught:
        opened.file(name)
    return caught.value.defect.kind


def test_every_kind_of_defect_counts_as_a_known_issue_or_as_none() -> None:
    assert {kind.issue for kind in KINDS.values()} - {None} <= set(ISSUES)


def test_a_regular_file_is_read_also_in_folders_below(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.pt").write_bytes(b"0123456789")
    with Folder.open(tmp_path) as folder, folder.file("a/b/x.pt") as opened:
        assert (opened.name, opened.size, opened.read(3, 4)) == ("a/b/x.pt", 10, b"3456")
        with pytest.raises(Refused, match="10 bytes"):
            opened.read(8, 3)
    assert opened.descriptor == -1


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_bytes(b"x")
    os.symlink("target", tmp_path / "link")
    os.symlink("folder", tmp_path / "linked")
    os.symlink("/proc/self/fd/0", tmp_path / "proc")
    os.symlink("/dev/zero", tmp_path / "device")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("link", "proc", "device", "fifo", "socket", "folder", "linked/inside", "target/inside"):
            assert refused(tmp_path, name) == "special", name


def test_promise_E2_a_device_and_a_file_of_proc_give_nothing(tmp_path: Path) -> None:
    assert refused(Path("/dev"), "zero") == "special"
    with Folder.open("/proc/self") as folder, folder.file("status") as opened:
        assert opened.size == 0


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a//b", "/etc/passwd", "x\0y", "x" * 300, "/".join("a" * 20)])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path, name) in ("malformed", "limit")


def test_a_file_that_is_not_there_has_vanished(tmp_path: Path) -> None:
    with Folder.open(tmp_path) as folder:
        for name in ("x", "a/x"):
            with pytest.raises(Vanished):
                folder.file(name)
    with pytest.raises(Vanished):
        Folder.open(tmp_path / "gone")


def delete(path: Path) -> None:
    path.unlink()


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def cut(path: Path) -> None:
    os.truncate(path, 3)


def rewrite(path: Path) -> None:
    path.write_bytes(bytes(2 << 20))
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [delete, grow, cut, rewrite])
def test_a_file_that_changes_while_it_is_read_has_vanished(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(2 << 20))
    with Folder.open(tmp_path) as folder, folder.file("x") as opened:
        opened.check()
        change(path)
        with pytest.raises(Vanished):
            opened.check()
        with pytest.raises(Vanished):
            for _ in blocks(Tensor("t", "uint8", (2 << 20,), "x", 0), opened):
                pass


def test_a_file_that_was_replaced_is_not_the_one_that_was_expected(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"one")
    with Folder.open(tmp_path) as folder:
        with folder.file("x") as opened:
            identity = opened.identity
        folder.file("x", identity).close()
        (tmp_path / "y").write_bytes(b"two")
        os.replace(tmp_path / "y", tmp_path / "x")
        with pytest.raises(Vanished, match="replaced"):
            folder.file("x", identity)


def test_promise_E2_a_sparse_file_is_refused_and_one_with_small_holes_is_not(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(1 << 40)
    with (tmp_path / "mostly").open("wb") as file:
        file.write(os.urandom(3 << 20))
        file.truncate(4 << 20)
    (tmp_path / "fresh").write_bytes(os.urandom(4 << 20))  # blocks are not yet placed
    assert refused(tmp_path, "sparse") == "limit"
    with Folder.open(tmp_path) as folder:
        for name in ("mostly", "fresh"):
            folder.file(name).close()


def test_a_folder_lists_what_is_in_it_and_is_kept_by_its_descriptor(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for name in ("b", "a"):
        (inner / name).write_bytes(name.encode())
    with Folder.open(tmp_path) as folder, folder.folder("inner") as opened:
        inner.rename(tmp_path / "moved")
        os.symlink("/etc", inner)
        assert opened.names() == ["a", "b"]
        with opened.file("a") as file:
            assert file.read(0, 1) == b"a"
        with pytest.raises(Refused):
            folder.folder("inner")


def test_promise_E3_a_link_that_takes_the_place_of_a_file_or_folder_is_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    for place, content in ((outside, b"secret"), (inside / "sub", b"public")):
        place.mkdir(parents=True)
        (place / "x").write_bytes(content)
    (inside / "x").write_bytes(b"public")
    os.symlink(outside / "x", inside / "link")
    os.symlink(outside, inside / "linked")
    stop = threading.Event()

    def attack() -> None:
        while not stop.is_set():
            for real, link in (("x", "link"), ("sub", "linked")):
                os.rename(inside / real, inside / "spare")
                os.rename(inside / link, inside / real)
                os.rename(inside / real, inside / link)
                os.rename(inside / "spare", inside / real)

    attacker = threading.Thread(target=attack)
    attacker.start()
    outcomes = {"read": 0, "refused": 0}
    deadline = time.monotonic() + 30
    try:
        with Folder.open(inside) as folder:
            while min(outcomes.values()) < 50 and time.monotonic() < deadline:
                for name in ("x", "sub/x"):
                    try:
                        with folder.file(name) as opened:
                            assert opened.read(0, 6) == b"public"
                            outcomes["read"] += 1
                    except (Refused, Vanished):
                        outcomes["refused"] += 1
    finally:
        stop.set()
        attacker.join()
    assert min(outcomes.values()) >= 50, outcomes


@pytest.mark.parametrize("name", ["link", "fifo", "linked/inside"])
def test_what_takes_the_place_of_a_file_after_it_was_looked_at_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "target").write_bytes(b"secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_bytes(b"x")
    os.symlink("target", tmp_path / "link")
    os.symlink("folder", tmp_path / "linked")
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(Folder, "_expect", lambda *arguments: None)  # as if it had been a regular file then
    assert refused(tmp_path, name) == "special"
