"""Who is told what: a tree of routes with Alertmanager's words and meanings."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlhfd_alerts.errors import RoutingError
from rlhfd_alerts.matchers import Matcher, matches
from rlhfd_alerts.mute_times import MuteTime

__all__ = ["ALL_LABELS", "EPISODE", "Node", "Route", "Routing", "Timing"]

EPISODE = "episode"
ALL_LABELS = "..."
"""In ``group_by``: by all labels, so that nothing is grouped."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How messages are grouped and spaced. ``wait_seconds`` from what opens a group to its first message,
    ``interval_seconds`` between two messages of a group, ``repeat_seconds`` until what still fires is told again."""

    group_by: tuple[str, ...] = (EPISODE,)
    wait_seconds: float = 0.0
    interval_seconds: float = 0.0
    repeat_seconds: float = 4 * 3600.0
    mute_times: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A route as it is configured: what is ``None`` is as above it. ``targets`` ``None`` at the root: all there are.
    ``goes_on``: the routes after it are looked at, too (``continue``)."""

    matchers: tuple[Matcher, ...] = ()
    targets: tuple[str, ...] | None = None
    goes_on: bool = False
    group_by: tuple[str, ...] | None = None
    wait_seconds: float | None = None
    interval_seconds: float | None = None
    repeat_seconds: float | None = None
    mute_times: tuple[str, ...] = ()  # not inherited, as in Alertmanager
    routes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """A route as it works, with what it has from above. ``id`` stays the same as long as it and those above it do."""

    id: str
    matchers: tuple[Matcher, ...]
    targets: tuple[str, ...] | None
    goes_on: bool
    timing: Timing
    routes: tuple[Route, ...] = field(default=(), repr=False)

    def group_of(self, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """The labels that alerts share one message by."""
        names = sorted(labels) if ALL_LABELS in self.timing.group_by else self.timing.group_by
        return tuple((name, labels.get(name, "")) for name in names)


class Routing:
    """The tree and the mute times that it names. Without a route every target is told everything.

    Raises :class:`RoutingError` where it names a mute time that there is not.
    """

    def __init__(self, root: Node | None = None, mute_times: Mapping[str, MuteTime] | None = None) -> None:
        root = root or Node()
        if root.matchers or root.goes_on or root.mute_times:
            raise RoutingError("the root route takes everything: no matchers, no continue, no mute times")
        self.root = _resolved(replace(root, matchers=()), None)
        self._mute_times = dict(mute_times or {})
        for route in _walk(self.root):
            for name in route.timing.mute_times:
                if name not in self._mute_times:
                    raise RoutingError(_unknown("mute time", name, self._mute_times))

    def targets(self) -> frozenset[str]:
        """The names of all targets that some route names."""
        return frozenset(name for route in _walk(self.root) for name in route.targets or ())

    def by_id(self) -> dict[str, Route]:
        """All routes by their id; of two that are the same, the first, as it is the one that is taken."""
        return {route.id: route for route in reversed(list(_walk(self.root)))}

    def routes_for(self, labels: Mapping[str, str]) -> tuple[Route, ...]:
        """The routes that an alert with ``labels`` takes, in order; at least one."""
        return tuple(_taken(self.root, labels))

    def targets_for(self, labels: Mapping[str, str], known: Sequence[str]) -> dict[str, Route]:
        """Who is told of an alert with ``labels``, each by the first route that leads there. ``known`` are all targets
        there are; one that a route names but that there is not gets nothing."""
        found: dict[str, Route] = {}
        for route in self.routes_for(labels):
            for name in known if route.targets is None else route.targets:
                if name in known:
                    found.setdefault(name, route)
        return found

    def muted_by(self, route: Route, now: float) -> str | None:
        """The name of a mute time that the route is in at the unix time ``now``."""
        return next((name for name in route.timing.mute_times if self._mute_times[name].covers(now)), None)


def _taken(route: Route, labels: Mapping[str, str]) -> Iterator[Route]:
    is_met = False
    for child in route.routes:
        if matches(child.matchers, labels):
            is_met = True
            yield from _taken(child, labels)
            if not child.goes_on:
                return
    if not is_met:
        yield route


def _resolved(node: Node, above: Route | None) -> Route:
    base = Timing() if above is None else replace(above.timing, mute_times=())
    given: dict[str, Any] = {
        "group_by": node.group_by,
        "wait_seconds": node.wait_seconds,
        "interval_seconds": node.interval_seconds,
        "repeat_seconds": node.repeat_seconds,
        "mute_times": node.mute_times or None,
    }
    timing = replace(base, **{name: value for name, value in given.items() if value is not None})
    own = "{" + ",".join(sorted(map(str, node.matchers))) + "}"
    route = Route(
        id=own if above is None else f"{above.id}/{own}",
        matchers=node.matchers,
        targets=above.targets if node.targets is None and above is not None else node.targets,
        goes_on=node.goes_on,
        timing=timing,
    )
    return replace(route, routes=tuple(_resolved(child, route) for child in node.routes))


def _walk(route: Route) -> Iterator[Route]:
    yield route
    for child in route.routes:
        yield from _walk(child)


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f'did you mean "{nearest[0]}"?' if nearest else f"there are: {', '.join(names) or 'none'}"
    return f"there is no {what} {name!r}; {hint}"
