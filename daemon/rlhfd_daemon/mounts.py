"""Which file system a path lies on, found out without touching a file system that may hang."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

__all__ = ["Mount", "device_names", "mount_of", "parse_mountinfo", "resolve"]

# A look at these needs no network and no other process.
LOCAL_TYPES = frozenset({
    "bcachefs", "btrfs", "devtmpfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "rootfs", "squashfs",
    "tmpfs", "vfat", "xfs", "zfs",
})  # fmt: skip
MAX_LINKS = 40
MAX_NAME = 64
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """``root`` is the folder of the file system that is seen at ``point``; ``type`` as in ``mount -t``."""

    point: str
    root: str
    type: str
    options: tuple[str, ...] = ()

    @property
    def local(self) -> bool:
        return self.type in LOCAL_TYPES


def parse_mountinfo(content: bytes) -> tuple[Mount, ...]:
    """From ``/proc/<pid>/mountinfo``, in the order in which they were mounted; see proc(5)."""
    found = []
    for line in content.splitlines():
        before, separator, after = line.partition(b" - ")
        fields, more = before.split(b" "), after.split(b" ")
        if separator and len(fields) >= 6 and len(more) >= 3:
            options = tuple(more[2].decode("utf-8", "replace").split(","))
            found.append(Mount(_text(fields[4]), _text(fields[3]), _text(more[0]), options))
    return tuple(found)


def mount_of(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The mount on which ``path`` (absolute, without links) lies; of several at one point the latest."""
    best: Mount | None = None
    for mount in mounts:
        inside = mount.point == "/" or path == mount.point or path.startswith(mount.point + "/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def resolve(path: str, mounts: Sequence[Mount], readlink: Callable[[str], str] = os.readlink) -> str:
    """``path`` with its symbolic links followed, but only as long as the way is on local file systems."""
    done, rest, links = "/", _parts(path), 0
    while rest:
        part = rest.pop(0)
        if part == "..":
            done = os.path.dirname(done)
            continue
        here = os.path.join(done, part)
        mount = mount_of(here, mounts)
        if mount is None or not mount.local or links > MAX_LINKS:
            return os.path.normpath(os.path.join(here, *rest))
        try:
            target = readlink(here)
        except OSError:  # no link, or not there yet
            done = here
            continue
        links += 1
        rest = _parts(target) + rest
        done = "/" if target.startswith("/") else done
    return done


def device_names(points: Iterable[str]) -> dict[str, str]:
    """A readable name without slashes for each mount point, such as ``root`` and ``data_ckpt``; no two alike."""
    found: dict[str, str] = {}
    for point in sorted(points):
        plain = re.sub(r"[^\w.-]", "_", point.strip("/"), flags=re.ASCII)[:MAX_NAME] or "root"
        name, number = plain, 1
        while name in found.values():
            number += 1
            name = f"{plain}-{number}"
        found[point] = name
    return found


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _text(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found.group(1), 8) & 255]), field))
