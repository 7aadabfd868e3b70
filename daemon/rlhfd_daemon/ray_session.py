"""The raylets of the node with their actors, and what of them is told of which run. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rlhfd_daemon.nodefs import known
from rlhfd_daemon.observation import Subject, node
from rlhfd_daemon.process_names import free_name
from rlhfd_daemon.ray_store import Raylet, Store
from rlhfd_daemon.ray_titles import Actor

__all__ = ["Session", "Unobserved", "assign", "store_metrics", "take"]

Observed = Mapping[int, tuple[Subject, str]]  # by pid the run and the name of each process with an emitter


@dataclass(frozen=True)
class Unobserved:
    """An actor whose process has no emitter; ``subject`` is its run, or the node. ``method`` runs now."""

    subject: Subject
    process: str
    role: str
    pid: int
    method: str | None
    busy_ratio: float


@dataclass
class Session:
    """One raylet with its actors by pid, and what it last said of its store. ``subject`` is the run that it works for,
    ``names`` are those of actors without an emitter."""

    pid: int
    raylet: Raylet | None = None
    actors: dict[int, Actor] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    subject: Subject = field(default_factory=node)
    store: Store | None = None
    is_refused: bool = False


def assign(sessions: Iterable[Session], observed: Observed, now: float, unobserved_after_seconds: float) -> None:
    """Say whose each session is, and what its actors without an emitter are called: by their class. They keep their
    name while they live, unless a process with an emitter has the same. Those that are new may still get one.

    A session is the run's of which it has processes; if there are none, or of several runs, it is the node's."""
    taken: dict[Subject, set[str]] = {}
    for subject, name in observed.values():
        taken.setdefault(subject, set()).add(name)
    for session in sessions:
        runs = {observed[pid][0] for pid in session.actors if pid in observed}
        session.subject = runs.pop() if len(runs) == 1 else node()
        used, before, session.names = taken.setdefault(session.subject, set()), session.names, {}
        for pid, actor in session.actors.items():
            if pid in observed or now - actor.first_seen < unobserved_after_seconds:
                continue
            name = before.get(pid, actor.name)
            session.names[pid] = name = free_name(actor.name, used) if name in used else name
            used.add(name)


def take(session: Session, observed: Observed, now: float) -> tuple[dict[Subject, dict[str, float]], list[Unobserved]]:
    """The metrics of the session's actors since the last time, and who of them has no emitter."""
    metrics: dict[Subject, dict[str, float]] = {}
    unobserved = []
    for pid, actor in session.actors.items():
        use = actor.take(now)
        subject, process = observed.get(pid) or (session.subject, session.names.get(pid))
        if process is None or use is None:
            continue
        if pid not in observed:
            unobserved.append(Unobserved(subject, process, actor.name, pid, actor.method, use.busy_ratio))
        values = {"busy_ratio": use.busy_ratio, "method_seconds": use.method_seconds}
        metrics.setdefault(subject, {}).update({f"ray/{process}/{what}": value for what, value in values.items()})
    return metrics, unobserved


def store_metrics(sessions: Iterable[Session]) -> dict[Subject, dict[str, float]]:
    """The stores of several raylets of one subject count together; what one of them does not say is unknown."""
    by_subject: dict[Subject, list[Session]] = {}
    for session in sessions:
        by_subject.setdefault(session.subject, []).append(session)
    return {subject: _store_metrics(of_subject) for subject, of_subject in by_subject.items()}


def _store_metrics(sessions: list[Session]) -> dict[str, float]:
    stores = [one.store or Store(None, None, None, None) for one in sessions]
    return known({
        "ray/object_store_capacity_bytes": _sum(one.raylet.capacity if one.raylet else None for one in sessions),
        "ray/object_store_used_bytes": _sum(one.used for one in stores),
        "ray/object_store_spilled_bytes": _sum(one.spilled for one in stores),
        "ray/objects_spilled_total": _sum(one.spills for one in stores),
        "ray/objects_restored_total": _sum(one.restores for one in stores),
    })  # fmt: skip


def _sum(values: Iterable[int | None]) -> int | None:
    found = list(values)
    numbers = [value for value in found if value is not None]
    return sum(numbers) if len(numbers) == len(found) else None
