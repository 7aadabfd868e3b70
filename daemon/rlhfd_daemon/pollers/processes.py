"""What each process of each run uses, how near its control group is to its limit, and whom the kernel killed."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from rlhfd_daemon import cgroup, nodefs, procfs
from rlhfd_daemon.cgroup import GroupMemory
from rlhfd_daemon.config_host import ProcessesConfig
from rlhfd_daemon.nodefs import known
from rlhfd_daemon.observation import Observation, Subject
from rlhfd_daemon.oom import NODE, OomWatch, Vanished
from rlhfd_daemon.process_names import ProcessNames
from rlhfd_daemon.process_tree import ProcessTree
from rlhfd_daemon.procfs import CLOCK_TICKS, Stat
from rlhfd_daemon.run_processes import RunProcess
from rlhfd_daemon.runs import Run, Runs, Stream

__all__ = ["ProcessPoller"]

METRICS_PER_OBSERVATION = 490  # a frame has at most 512
REUSE_SECONDS = 5.0
LOOK_SECONDS = 4.0  # between two looks for new descendants: listing all processes is the dearest part
_BOOT = re.compile(rb"^btime (\d+)$", re.M)


class ProcessPoller:
    """Goes by the pid that the kernel reported for an emitter's connection. ``mono`` is the monotonic clock."""

    name = "processes"

    def __init__(
        self,
        config: ProcessesConfig,
        runs: Runs,
        names: ProcessNames | None = None,
        *,
        proc: Path = procfs.PROC,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        self.interval_seconds = config.interval_seconds
        self._runs = runs
        self._proc = proc
        self._mono = mono
        self._names = names or ProcessNames()
        self._tree = ProcessTree(proc)
        self._looked, self._seen = float("-inf"), set[str]()
        self._oom = OomWatch()
        self._known: dict[str, RunProcess] = {}  # by stream

    async def poll(self, now: float) -> Iterable[Observation]:
        runs = [run for run in self._runs.runs.values() if run.live]
        self._names.keep(runs)
        mono = self._mono()
        before = {key: (one, one.family) for key, one in self._known.items()}
        present = {key: stat for run in runs for key, stat in self._present(run)}
        folders = self._groups()  # also of those who are gone: there their end was counted
        self._known = {key: one for key, one in self._known.items() if key in present}
        found = list(self._usage(present, mono)) if present else []
        # Kills are counted before anybody dies of them: whoever is found dead here is in the counts read after it.
        gone = self._gone(before)
        limited = {paths: cgroup.limited(paths) for paths in set(folders.values())}
        groups = {subject: limited[paths] for subject, paths in folders.items()}
        for subject in dict.fromkeys(one.subject for one in self._known.values()):
            group = cgroup.tightest(groups[subject])
            if group is not None:
                found.append(Observation(subject=subject, metrics=_group_metrics(group)))
        return [*found, *self._kills(groups, gone)]

    async def stop(self) -> None:
        self._known = {}

    def _present(self, run: Run) -> Iterator[tuple[str, Stat]]:
        """The live processes of ``run``, by stream, each with what the kernel says of it now."""
        for key, (process, stream) in self._names.of(run).items():
            stat = procfs.stat(stream.peer.pid, self._proc)
            if stat is None:
                continue
            known = self._known.get(key)
            if known is None and self._is_of(stream, stat):
                known = self._known[key] = RunProcess(Subject(run.run, run.boot), process, stat, self._proc)
            if known is not None and known.start_ticks == stat.start_ticks:
                yield key, stat

    def _is_of(self, stream: Stream, stat: Stat) -> bool:
        """False if the process began after the stream's last word: the pid has been given away."""
        boot = _BOOT.search(_content(self._proc / "stat"))
        return boot is None or int(boot.group(1)) + stat.start_ticks / CLOCK_TICKS <= stream.last_seen + REUSE_SECONDS

    def _usage(self, present: Mapping[str, Stat], now: float) -> Iterator[Observation]:
        if now - self._looked >= LOOK_SECONDS or present.keys() != self._seen:
            self._tree.look()
            self._looked, self._seen = now, set(present)
        pids = {stat.pid for stat in present.values()}
        metrics: dict[Subject, dict[str, float]] = {}
        for key, stat in present.items():
            one = self._known[key]
            # What descends from another process of a run is that one's: Ray's driver is above all actors.
            descendants = self._tree.descendants(stat.pid, without=pids)
            metrics.setdefault(one.subject, {}).update(one.metrics(stat, descendants, now))
        for subject, values in metrics.items():
            rest = iter(values.items())
            while part := dict(itertools.islice(rest, METRICS_PER_OBSERVATION)):
                yield Observation(subject=subject, metrics=part)

    def _groups(self) -> dict[Subject, tuple[Path, ...]]:
        """By run the control groups that its processes are in."""
        found: dict[Subject, dict[Path, None]] = {}
        for one in self._known.values():
            found.setdefault(one.subject, {}).update(dict.fromkeys(one.groups))
        return {subject: tuple(folders) for subject, folders in found.items()}

    def _gone(self, before: Mapping[str, tuple[RunProcess, tuple[Stat, ...]]]) -> list[Vanished]:
        """Who has vanished since the last look, without those who took their leave."""
        alive = {
            (one.pid, one.start_ticks)
            for owner in self._known.values()
            for one in owner.family
            if one.state not in "ZX"
        }
        found = []
        for key, (process, family) in before.items():
            stream = self._runs.streams.get(key)
            if stream is not None and stream.ended != "process_stop":
                missing = [one for one in family if one.state not in "ZX" and (one.pid, one.start_ticks) not in alive]
                found += [process.vanished(one) for one in missing if self._is_gone(one)]
        return found

    def _is_gone(self, one: Stat) -> bool:
        """Rather than adopted by another process, for instance."""
        now = procfs.stat(one.pid, self._proc)
        return now is None or now.state in "ZX" or now.start_ticks != one.start_ticks

    def _kills(self, groups: Mapping[Subject, list[GroupMemory]], gone: list[Vanished]) -> list[Observation]:
        counts: dict[str, int] = {}
        members: dict[str, frozenset[Subject]] = {}
        kills = nodefs.parse_oom_kills(_content(self._proc / "vmstat"))
        if kills is not None:
            counts[NODE] = kills
        for subject, group in ((subject, group) for subject, limited in groups.items() for group in limited):
            if group.oom_kills is not None:
                counts[str(group.folder)] = group.oom_kills
                members[str(group.folder)] = members.get(str(group.folder), frozenset()) | {subject}
        return self._oom.look(counts, gone, members)


def _group_metrics(group: GroupMemory) -> dict[str, float]:
    return known({
        "cgroup/memory_bytes": group.used,
        "cgroup/memory_limit_bytes": group.limit,
        "cgroup/oom_kills_total": group.oom_kills,
    })  # fmt: skip


def _content(path: Path) -> bytes:
    try:
        return procfs.read_bytes(path)
    except OSError:
        return b""
