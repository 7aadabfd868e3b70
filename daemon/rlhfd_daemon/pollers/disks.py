"""Free space of the file systems that the daemon and the runs write to; a mount that hangs is named, others go on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from rlhfd_daemon import procfs
from rlhfd_daemon.config_host import DisksConfig
from rlhfd_daemon.mounts import device_names, mount_of, parse_mountinfo, resolve
from rlhfd_daemon.nodefs import known, ratio
from rlhfd_daemon.observation import Observation, node
from rlhfd_daemon.probe import Prober, Stuck
from rlhfd_daemon.refusals import Refusals
from rlhfd_daemon.run_folder import working_directory
from rlhfd_daemon.runs import Run, Runs

__all__ = ["DiskPoller", "directories", "space_of"]

# As dotted names, and flat before OpenRLHF 0.10.2.
DIRECTORY_ARGS = ("ckpt.path", "ckpt.output_dir", "ckpt_path", "save_path")
MAX_MOUNTS = 32
MAX_PATHS = 64
MAX_BYTES = 1 << 63


class DiskPoller:
    """Asks by ``statvfs`` in child processes, at most one of them stuck for each mount. ``state_dir`` is the daemon's
    own; ``proc`` where that is mounted, ``mono`` the monotonic clock."""

    name = "disks"

    def __init__(
        self,
        config: DisksConfig,
        runs: Runs,
        state_dir: Path,
        *,
        proc: Path = procfs.PROC,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        self.interval_seconds = config.interval_seconds
        self._stuck_after = config.stuck_after_seconds
        self._runs = runs
        self._state_dir = str(state_dir)
        self._proc = proc
        self._mono = mono
        self._prober = Prober(mono=mono)
        self._refusals = Refusals()
        self._told: dict[str, float] = {}  # mounts that were reported as stuck, since when

    async def poll(self, now: float) -> Iterable[Observation]:
        wanted = self._wanted()
        names = device_names(wanted)
        found: list[Observation] = []
        metrics: dict[str, float] = {}
        for mount in sorted(wanted.keys() | self._prober.stuck):
            paths = [path for path in wanted.get(mount, ()) if self._refusals.allow(path, self._mono())]
            if not paths and mount not in self._prober.stuck:
                continue
            try:
                answer = await self._prober.ask(mount, {"statvfs": paths, "top": mount})
            except EOFError:  # somebody killed the child; the next poll has another
                continue
            found += self._stuck_or_back(mount, answer)
            if not isinstance(answer, Stuck) and mount in names:
                space = self._least(answer)
                metrics.update({f"disk/{names[mount]}/{name}": value for name, value in space.items()})
        if metrics:
            found.append(Observation(subject=node(), metrics=metrics))
        return found

    async def stop(self) -> None:
        self._prober.stop()

    def _wanted(self) -> dict[str, list[str]]:
        """By mount point the paths to ask about."""
        try:
            mounts = parse_mountinfo(procfs.read_bytes(self._proc / "self" / "mountinfo"))
        except OSError:
            mounts = ()
        asked = dict.fromkeys([self._state_dir])
        for run in self._runs.runs.values():
            if run.live:
                asked.update(dict.fromkeys(directories(run, self._proc)))
        found: dict[str, list[str]] = {}
        for path in list(asked)[:MAX_PATHS]:
            real = resolve(path, mounts)
            mount = mount_of(real, mounts)
            point = "/" if mount is None else mount.point
            if point in found or len(found) < MAX_MOUNTS:
                found.setdefault(point, []).append(real)
        return found

    def _least(self, answer: Mapping[str, object]) -> dict[str, float]:
        """Of the folders on one mount the one with the least space: a quota may make a difference."""
        spaces = []
        for path, said in answer.items():
            if isinstance(said, int):
                self._refusals.note(path, said, self._mono())
            # The root may be all that is to be seen from here of a path in another container.
            elif isinstance(said, list) and (said[0] != "/" or path == "/"):
                spaces.append(space_of(*said[1:]))
        return min(spaces, key=lambda space: space.get("free_bytes", float("inf")), default={})

    def _stuck_or_back(self, mount: str, answer: object) -> Iterator[Observation]:
        if isinstance(answer, Stuck):
            if answer.seconds >= self._stuck_after and mount not in self._told:
                self._told[mount] = self._mono() - answer.seconds
                fields = {"mount": mount, "seconds": round(answer.seconds, 1), "pid": answer.pid, "state": answer.state}
                yield Observation(subject=node(), event="mount_stuck", fields=fields)
        elif mount in self._told:
            seconds = self._mono() - self._told.pop(mount)
            yield Observation(subject=node(), event="mount_back", fields={"mount": mount, "seconds": round(seconds, 1)})


def directories(run: Run, proc: Path = procfs.PROC) -> list[str]:
    """Where ``run`` writes checkpoints and its model, absolute. A relative path needs the working directory of one of
    its processes; where that is unknown it is left out."""
    args = run.context.get("args")
    given = [args.get(name) for name in DIRECTORY_ARGS] if isinstance(args, dict) else []
    paths = [path for path in given if isinstance(path, str) and path]
    folder = None if all(path.startswith("/") for path in paths) else working_directory(run, proc)
    absolute = (path if path.startswith("/") else folder and os.path.join(folder, path) for path in paths)
    return [os.path.normpath(path) for path in absolute if path]


def space_of(blocks: int, available: int, block_bytes: int, files: int, files_available: int) -> dict[str, float]:
    """``free_bytes``, ``total_bytes`` and ``inodes_free_ratio`` from the numbers of ``statvfs``, without what cannot be
    true."""
    total, free = blocks * block_bytes, available * block_bytes
    plausible = 0 < total < MAX_BYTES and 0 <= free <= total
    return known({
        "free_bytes": free if plausible else None,
        "total_bytes": total if plausible else None,
        "inodes_free_ratio": ratio(files_available / files) if files > 0 else None,  # some have no fixed number
    })  # fmt: skip
