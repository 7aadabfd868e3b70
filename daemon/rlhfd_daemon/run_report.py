"""What `rlhfd runs` and `rlhfd topology` tell: each run's metadata, and where its processes are and what they do."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhfd_alerts.alert import Alert
from rlhfd_daemon.observation import Subject
from rlhfd_daemon.outlets.latest import Latest
from rlhfd_daemon.process_names import ProcessNames
from rlhfd_daemon.ray_session import Unobserved
from rlhfd_daemon.rules.unchecked import Unchecked
from rlhfd_daemon.runs import DAEMON_ROLE, Run, Runs, Stream

__all__ = ["RunReport"]

PROCESS = (
    "host", "role", "rank", "world_size", "process", "pid", "gpus", "phase", "phase_since", "method", "busy_ratio",
    "rss_bytes", "step", "hooks", "last_seen", "ended",
)  # fmt: skip

# Argument names from 0.10.2 on, and the flat ones before.
ALGORITHM = ("algo.advantage.estimator", "advantage_estimator")
MODEL = ("actor.model_name_or_path", "model.model_name_or_path", "pretrain")


class RunReport:
    """Answers ``GET /api/v1/runs`` and ``/api/v1/topology`` as plain values: times are Unix seconds, unknown is null.

    ``methods`` says what the Ray titles of processes show, by pid; ``unobserved`` are Ray's actors without an emitter;
    ``names`` is how pollers name processes; ``unchecked`` are the rules that cannot be looked at in a launch of a run.
    """

    def __init__(
        self,
        runs: Runs,
        latest: Latest,
        *,
        firing: Callable[[], Iterable[Alert]],
        steps: Callable[[str, str], Path | None],
        names: ProcessNames | None = None,
        methods: Callable[[], Mapping[int, str]] = dict,
        unobserved: Callable[[], Iterable[Unobserved]] = tuple,
        unchecked: Callable[[str, str], Iterable[Unchecked]] = lambda _run, _boot: (),
    ) -> None:
        self._runs = runs
        self._latest = latest
        self._firing = firing
        self._steps = steps
        self._names = names or ProcessNames()
        self._methods = methods
        self._unobserved = unobserved
        self._unchecked = unchecked

    def runs(self, name: str | None) -> dict[str, object]:
        """Every launch, the newest last; with a ``name`` those of that name, with what each said at its start."""
        firing = Counter((alert.finding.run, alert.finding.boot) for alert in self._firing())
        found = [self._run(run, firing[(run.run, run.boot)]) for run in self._chosen(name)]
        if name is not None:
            for summary, run in zip(found, self._chosen(name), strict=True):
                summary["context"] = dict(run.context)
                summary["unchecked"] = [one._asdict() for one in self._unchecked(run.run, run.boot)]
        return {"time": time.time(), "runs": found}

    def topology(self, name: str | None) -> dict[str, object]:
        """The processes of every live launch; with a ``name`` of all launches of that name."""
        methods = self._methods()
        found = [
            {
                "run": run.run,
                "boot": run.boot,
                "live": run.live,
                "step": run.step,
                "processes": [*self._processes(run, methods), *self._others(run)],
            }
            for run in self._chosen(name)
            if run.live or name is not None
        ]
        return {"time": time.time(), "runs": found}

    def _chosen(self, name: str | None) -> list[Run]:
        training = [run for run in self._runs.runs.values() if run.is_training and name in (None, run.run)]
        return sorted(training, key=lambda run: run.first_seen)

    def _run(self, run: Run, alerts: int) -> dict[str, Any]:
        args, versions = _mapping(run.context.get("args")), _mapping(run.context.get("versions"))
        streams = _streams(run)
        path = self._steps(run.run, run.boot)
        return {
            "run": run.run,
            "boot": run.boot,
            "trainer": run.trainer,
            "algorithm": _first(args, ALGORITHM),
            "model": _first(args, MODEL),
            "openrlhf": versions.get("openrlhf"),
            "step": run.step,
            "first_seen": run.first_seen,
            "last_seen": run.last_seen,
            "live": run.live,
            "ended": None if run.live else dict(Counter(str(stream.ended) for stream in streams)),
            "processes": len(streams),
            "processes_live": sum(stream.ended is None for stream in streams),
            "alerts": alerts,
            "steps": None if path is None else str(path),
        }

    def _processes(self, run: Run, methods: Mapping[int, str]) -> Iterator[dict[str, object]]:
        names = {stream_id: name for stream_id, (name, _) in self._names.of(run).items()}
        for stream in sorted(_streams(run), key=lambda one: (one.ended is not None, one.role, one.rank or 0)):
            phase = next(reversed(stream.phases.values()), None)
            pid = stream.peer.pid if stream.peer.pid > 0 else stream.pid
            name = names.get(stream.stream)
            yield {
                "host": stream.start.get("hostname"),
                "role": stream.role,
                "rank": stream.rank,
                "world_size": stream.start.get("world_size"),
                "process": name,
                "pid": pid,
                "gpus": stream.start.get("cuda_visible_devices"),
                "phase": None if phase is None else phase.phase,
                "phase_since": None if phase is None else phase.since,
                "method": methods.get(pid),
                "busy_ratio": self._value(run, name, "busy_ratio"),
                "rss_bytes": self._value(run, name, "rss_bytes"),
                "step": stream.step,
                "hooks": dict(stream.hooks),
                "last_seen": stream.last_seen,
                "ended": stream.ended,
            }

    def _others(self, run: Run) -> Iterator[dict[str, object]]:
        """Actors of the run of which only the title is known; they live."""
        for one in self._unobserved():
            if one.subject == Subject(run.run, run.boot):
                known = {"host": socket.gethostname(), "role": one.role, "process": one.process, "pid": one.pid,
                         "method": one.method, "busy_ratio": one.busy_ratio, "hooks": {},
                         "last_seen": time.time()}  # fmt: skip
                yield {**dict.fromkeys(PROCESS), **known}

    def _value(self, run: Run, process: str | None, what: str) -> float | None:
        """The last that a poller saw of a live process."""
        if process is None:
            return None
        seen = (self._latest.value(run.run, run.boot, f"{group}/{process}/{what}") for group in ("process", "ray"))
        return next((sample.value for sample in seen if sample is not None), None)


def _streams(run: Run) -> list[Stream]:
    return [stream for stream in run.streams.values() if stream.role != DAEMON_ROLE]


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _first(args: Mapping[str, object], names: tuple[str, ...]) -> object:
    return next((args[name] for name in names if args.get(name) is not None), None)
