"""Looks into the folders in which checkpoints appear, and says what appeared, is complete, is broken or went away.

Every root is scanned at an interval, as only that sees what other nodes do on a network file system; where inotify
reports something, it is scanned at once. Scans are done by child processes, at most one of which hangs per mount.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rlhfd_daemon import procfs
from rlhfd_daemon.checkpoints.completeness import LIMITS, Known, Limits
from rlhfd_daemon.checkpoints.layout import Description, Layout
from rlhfd_daemon.checkpoints.roots import Root
from rlhfd_daemon.checkpoints.tracking import Change, Tracked, track
from rlhfd_daemon.mounts import mount_of, parse_mountinfo, resolve
from rlhfd_daemon.probe import Prober, Stuck

__all__ = ["CheckpointWatch", "KnownOf"]

COMMAND = (sys.executable, "-m", "rlhfd_daemon.checkpoints.scan_child")
MAX_ANSWER_BYTES = 64 << 20
PATIENCE_SECONDS = 5.0

KnownOf = Callable[[Root, Description], Known]


def nothing_known(_root: Root, _found: Description) -> Known:
    """Without frames."""
    return Known()


class _Watched:
    """What is known of one root."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.tracked = Tracked(root.path)
        self.layout: Layout | None = None
        self.digest = ""
        self.scanned = float("-inf")  # by the monotonic clock
        self.seen: float | None = None  # when the scan was asked for that is still to be looked at, Unix seconds
        self.problem = ""

    def take(self, answer: Mapping[str, Any], now: float) -> None:
        """A scan that was asked for at ``now``."""
        self.seen = now
        self.problem = str(answer.get("error", ""))
        self.digest = str(answer.get("digest", ""))
        if "layout" in answer:
            self.layout = Layout() if answer["layout"] is None else msgspec.convert(answer["layout"], Layout)


class CheckpointWatch:
    """``look`` is to be called about every second. ``interval_seconds`` is from one scan of a root to the next, without
    a hint; ``busy_seconds`` the same while a checkpoint is being written there."""

    def __init__(
        self,
        *,
        interval_seconds: float = 30.0,
        busy_seconds: float = 5.0,
        limits: Limits = LIMITS,
        proc: Path = procfs.PROC,
        mono: Callable[[], float] = time.monotonic,
        command: Sequence[str] = COMMAND,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._interval = interval_seconds
        self._busy = busy_seconds
        self._limits = limits
        self._proc = proc
        self._mono = mono
        self._prober = Prober(patience_seconds, mono, command, MAX_ANSWER_BYTES)
        self._watched: dict[str, _Watched] = {}
        self._stuck: dict[str, float] = {}
        self._asked: dict[str, float] = {}  # by mount, when its question was asked, Unix seconds

    async def look(self, roots: Iterable[Root], now: float, known: KnownOf = nothing_known) -> list[Change]:
        """What changed below ``roots`` since the last call; ``now`` in Unix seconds. A root that is no longer named is
        forgotten without a word."""
        wanted = {root.path: root for root in roots}
        self._watched = {path: self._watched.get(path) or _Watched(root) for path, root in wanted.items()}
        for path, root in wanted.items():
            self._watched[path].root = root
        for mount, paths in self._by_mount(wanted).items():
            for path in paths:
                if not await self._ask(mount, self._watched[path], now):
                    break  # one question at a time waits for a mount
        return [change for one in self._watched.values() for change in self._track(one, known)]

    @property
    def tracked(self) -> dict[str, Tracked]:
        """What is known, by root."""
        return {path: one.tracked for path, one in self._watched.items()}

    @property
    def layouts(self) -> dict[str, Layout]:
        """The newest scan of each root that was scanned."""
        return {path: one.layout for path, one in self._watched.items() if one.layout is not None}

    @property
    def problems(self) -> dict[str, str]:
        """Roots that cannot be read, or not in full, and why."""
        found = {path: one.problem for path, one in self._watched.items() if one.problem}
        cut = {path: layout.problem for path, layout in self.layouts.items() if layout.problem}
        return {**cut, **found}

    @property
    def stuck(self) -> dict[str, float]:
        """Mounts that have not answered for so many seconds."""
        return dict(self._stuck)

    def stop(self) -> None:
        """End all children. Safe to call twice."""
        self._prober.stop()

    def _by_mount(self, paths: Iterable[str]) -> dict[str, list[str]]:
        try:
            mounts = parse_mountinfo(procfs.read_bytes(self._proc / "self" / "mountinfo"))
        except OSError:
            mounts = ()
        found: dict[str, list[str]] = {}
        for path in paths:
            mount = mount_of(resolve(path, mounts), mounts)
            found.setdefault("/" if mount is None else mount.point, []).append(path)
        return found

    async def _ask(self, mount: str, one: _Watched, now: float) -> bool:
        """Scan ``one``, if it is due or if inotify says so; false if the mount does not answer."""
        mono = self._mono()
        is_due = mono - one.scanned >= (self._busy if one.tracked.unsettled else self._interval)
        question = {"root": one.root.path, "role": one.root.role, "known": one.digest, "hint": not is_due}
        if mount not in self._prober.stuck:
            self._asked[mount] = now
        try:
            answer = await self._prober.ask(mount, question)
        except (EOFError, ValueError):  # somebody killed the child, or it failed; the next scan has another
            one.scanned, one.problem = mono, "the process that scans it ended"
            return True
        if isinstance(answer, Stuck):
            self._stuck[mount] = answer.seconds
            return False
        self._stuck.pop(mount, None)
        # It may be the late answer to an earlier question, about another root of the mount.
        asked = self._watched.get(str(answer.get("root")))
        if asked is not None and answer.get("scanned"):
            asked.scanned = mono
            asked.take(answer, self._asked[mount])
        return True

    def _track(self, one: _Watched, known: KnownOf) -> list[Change]:
        """Only after a scan: that nothing has changed since is not known."""
        seen, one.seen = one.seen, None
        if seen is None or one.layout is None or one.problem:
            return []
        one.tracked, changes = track(one.tracked, one.layout, seen, lambda found: known(one.root, found), self._limits)
        return changes
