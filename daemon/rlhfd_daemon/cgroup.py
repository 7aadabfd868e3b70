"""The memory limit that a process really has: that of the tightest control group above it, version 1 or 2."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rlhfd_daemon import procfs
from rlhfd_daemon.mounts import Mount, parse_mountinfo
from rlhfd_daemon.nodefs import UNLIMITED, parse_oom_kills

__all__ = ["GroupMemory", "groups_of", "limited", "memory", "tightest"]

MAX_DEPTH = 32
# Page cache that has not been used lately goes first, before anybody is killed: Kubernetes and Docker count like this.
_CACHE = re.compile(rb"^inactive_file (\d+)$", re.M)
_CACHE_V1 = re.compile(rb"^total_inactive_file (\d+)$", re.M)


class GroupMemory(NamedTuple):
    """``used`` in bytes, without the page cache that can be dropped; ``oom_kills`` since the group was made."""

    folder: Path
    used: int
    limit: int
    oom_kills: int | None


def groups_of(pid: int | str, proc: Path = procfs.PROC) -> tuple[Path, ...]:
    """The folders of the control groups that hold the memory of ``pid``, its own first, as far as they are mounted
    here; ``self`` is this process. Empty if there are none, or it is not known where."""
    try:
        lines = procfs.read_bytes(f"{proc}/{pid}/cgroup").decode("utf-8", "replace").splitlines()
        mounts = parse_mountinfo(procfs.read_bytes(f"{proc}/self/mountinfo"))
    except OSError:
        return ()
    paths = {
        controllers: path for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1)
    }
    v1 = next((path for controllers, path in paths.items() if "memory" in controllers.split(",")), None)
    kind, path = ("cgroup", v1) if v1 is not None else ("cgroup2", paths.get("", ""))
    if not path.startswith("/"):
        return ()
    for mount in mounts:
        if mount.type == kind and (kind == "cgroup2" or "memory" in mount.options):
            return _upward(mount, path)
    return ()


def _upward(mount: Mount, path: str) -> tuple[Path, ...]:
    """In a container only the part below ``mount.root`` is to be seen, as if it were everything."""
    below = path[len(mount.root.rstrip("/")) :] if path.startswith(mount.root) else ""
    top = Path(mount.point)
    own = top / below.strip("/")
    if ".." in own.parts:  # of a namespace beside ours
        return ()
    return (own, *[parent for parent in own.parents if parent == top or top in parent.parents])[:MAX_DEPTH]


def memory(folder: Path) -> GroupMemory | None:
    """The group ``folder`` now; ``None`` if it has no limit."""
    v2 = folder / "memory.max"
    limit = procfs.read_int(v2)  # "max" is no number
    used = procfs.read_int(folder / "memory.current") if limit is not None else None
    if limit is None:
        limit = procfs.read_int(folder / "memory.limit_in_bytes")
        used = procfs.read_int(folder / "memory.usage_in_bytes")
    if limit is None or used is None or not 0 < limit < UNLIMITED:
        return None
    stat = _content(folder / "memory.stat")
    cache = _CACHE_V1.search(stat) or _CACHE.search(stat)
    events = _content(folder / "memory.events") or _content(folder / "memory.oom_control")
    return GroupMemory(folder, max(used - int(cache.group(1)) if cache else used, 0), limit, parse_oom_kills(events))


def limited(folders: Iterable[Path]) -> list[GroupMemory]:
    """Those of ``folders`` that have a limit, as they are now."""
    return [found for found in map(memory, folders) if found is not None]


def tightest(groups: Iterable[GroupMemory]) -> GroupMemory | None:
    """The group that is nearest to its limit; ``None`` if there is none."""
    return max(groups, key=lambda one: one.used / one.limit, default=None)


def _content(path: Path) -> bytes:
    try:
        return procfs.read_bytes(path)
    except OSError:
        return b""
