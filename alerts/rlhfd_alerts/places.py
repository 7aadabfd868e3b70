"""Who stands where: for each episode and target the group it is told in, and what that target has been told."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from rlhfd_alerts.finding import Severity
from rlhfd_alerts.routing import ALL_LABELS, EPISODE, Route

__all__ = ["Group", "Place", "group_from_json", "group_to_json", "place_from_json", "place_to_json"]


@dataclass
class Place:
    """One episode at one target. ``told``: with which severity the target knows that it fires, ``None`` if it does not;
    ``opening``: the last of its openings that is settled; ``routed``: the last one that leads to this target;
    ``acted``: of so many alerts about actions it was told."""

    group: str
    told: Severity | None = None
    opening: int = 0
    routed: int = 0
    acted: int = 0


@dataclass
class Group:
    """What shares messages at one target. ``is_firing``: the target was told that it fires; ``number``: how many
    messages there were, ``repeats`` of them since there was news. Times are unix seconds."""

    id: str
    target: str
    route: Route
    run: str
    boot: str
    told_at: float | None = None
    due: float | None = None
    is_firing: bool = False
    number: int = 0
    repeats: int = 0
    subjects: set[str] = field(default_factory=set)

    @property
    def is_single(self) -> bool:
        """Whether it is of one episode by its nature."""
        names = self.route.timing.group_by
        return EPISODE in names or ALL_LABELS in names

    def news_at(self, now: float) -> float:
        """When to tell what is new at ``now`` and does not press."""
        if self.told_at is None:
            return now + self.route.timing.wait_seconds
        return max(now, self.told_at + self.route.timing.interval_seconds)

    def repeats_at(self) -> float | None:
        """When to tell again what still fires; ``None`` while nothing was told."""
        return None if self.told_at is None else self.told_at + self.route.timing.repeat_seconds


_GROUP = ("target", "run", "boot", "told_at", "due", "is_firing", "number", "repeats")


def group_to_json(group: Group) -> str:
    """Return ``group`` as it is stored."""
    fields = {name: getattr(group, name) for name in _GROUP} | {"route": group.route.id}
    return json.dumps(fields, separators=(",", ":"))


def group_from_json(id_: str, text: str, routes: dict[str, Route]) -> Group | None:
    """Return the group that :func:`group_to_json` wrote, ``None`` if its route is not among ``routes`` any more. Raises
    ``ValueError`` if it did not write this."""
    try:
        fields: dict[str, Any] = json.loads(text)
        route = routes.get(fields.pop("route"))
        return None if route is None else Group(id=id_, route=route, **fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a group: {error}") from error


def place_to_json(place: Place) -> str:
    """Return ``place`` as it is stored."""
    told = None if place.told is None else place.told.value
    return json.dumps([place.group, told, place.opening, place.routed, place.acted])


def place_from_json(text: str) -> Place:
    """Return the place that :func:`place_to_json` wrote. Raises ``ValueError`` if it did not write this."""
    try:
        group, told, opening, routed, *acted = json.loads(text)
    except TypeError as error:
        raise ValueError(f"not a place: {error}") from error
    return Place(group, None if told is None else Severity(told), opening, routed, *acted)
