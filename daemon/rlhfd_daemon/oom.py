"""Brings together that the kernel killed somebody for want of memory, and which processes of a run vanished then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhfd_daemon.observation import Observation, Subject, node

__all__ = ["NODE", "OomWatch", "Vanished"]

NODE = ""  # the source whose counter is of the whole node
MAX_VICTIMS = 16


@dataclass(frozen=True)
class Vanished:
    """A process that was there at the last look: ``process`` is its name in the run, with ``child`` one of its
    descendants is meant; ``command`` is the kernel's name for it."""

    subject: Subject
    process: str
    pid: int
    command: str
    rss_bytes: int
    child: bool


class OomWatch:
    """Called at every look with the kernel's counters, by source: :data:`NODE` and control groups."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._waiting: dict[str, int] | None = None
        self._members: Mapping[str, frozenset[Subject]] = {}

    def look(
        self, counts: Mapping[str, int], gone: Sequence[Vanished], members: Mapping[str, frozenset[Subject]]
    ) -> list[Observation]:
        """``gone`` since the last look; ``members`` are the runs in each control group.

        A victim may need a moment to die: if nobody is gone yet, the next look says more. The kernel takes the largest
        process, so of all that vanished the largest are named, as many as were killed.
        """
        everybody = {**self._members, **members}
        self._members = members
        rises = {source: count - self._counts.get(source, count) for source, count in counts.items()}
        self._counts = dict(counts)
        rises = {source: rise for source, rise in rises.items() if rise > 0}
        before, self._waiting = self._waiting, None
        if not gone and before is None:
            self._waiting = rises or None
            return []
        kills = {source: rises.get(source, 0) + (before or {}).get(source, 0) for source in {*rises, *(before or {})}}
        return _told(kills, gone, everybody) if kills else []


def _told(
    kills: Mapping[str, int], gone: Sequence[Vanished], members: Mapping[str, frozenset[Subject]]
) -> list[Observation]:
    count = max(kills.values())  # a group's count is part of those above it and of the node's
    victims = sorted(gone, key=lambda one: one.rss_bytes, reverse=True)[: min(count, MAX_VICTIMS)]
    in_group = {subject for source in kills for subject in members.get(source, ())}
    concerned = {victim.subject for victim in victims} or in_group
    if not concerned:
        return [_event(node(), count, "node", [])]
    return [
        _event(
            subject, count, "cgroup" if subject in in_group else "node", [v for v in victims if v.subject == subject]
        )
        for subject in sorted(concerned, key=lambda one: (one.run, one.boot))
    ]


def _event(subject: Subject, count: int, scope: str, victims: Sequence[Vanished]) -> Observation:
    told = ", ".join(
        f"{one.command} (pid {one.pid}, {'child of ' if one.child else ''}{one.process}, {one.rss_bytes / 1e9:.1f} GB)"
        for one in victims
    )
    fields: dict[str, object] = {
        "count": count,
        "scope": scope,
        "victims": [
            {
                "process": one.process,
                "pid": one.pid,
                "command": one.command,
                "rss_bytes": one.rss_bytes,
                "child": one.child,
            }
            for one in victims
        ],
        "victims_text": f"; vanished then: {told}" if told else "",
        "critical": bool(victims) or scope == "cgroup",
    }
    return Observation(subject=subject, event="oom_kill", fields=fields)
