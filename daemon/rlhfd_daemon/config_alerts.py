"""The configuration of alerts: routes, mute times, inhibition, how long conditions last, storms (docs/alerts.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated

from msgspec import Meta, Struct, field

from rlhfd_alerts.durations import DURATION_PATTERN, parse_duration
from rlhfd_alerts.errors import AlertsError
from rlhfd_alerts.flapping import Damping
from rlhfd_alerts.groups import Dispatcher
from rlhfd_alerts.inhibition import DEAD_PROCESS, InhibitRule
from rlhfd_alerts.lifecycle import AlertRule
from rlhfd_alerts.matchers import parse_matcher, parse_matchers
from rlhfd_alerts.mute_times import MuteTime, parse_mute_time
from rlhfd_alerts.routing import Node, Routing
from rlhfd_alerts.storm import StormLimits
from rlhfd_daemon.errors import Problem

__all__ = ["AlertsConfig", "alert_faults", "alert_rules", "dispatcher_of", "routing_of"]

_Duration = Annotated[str, Meta(pattern=DURATION_PATTERN, min_length=1, description="like 30s, 5m or 4h")]
_Names = tuple[str, ...]
MAX_DEPTH = 8


class RouteConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route, as in Alertmanager. What it does not set is as in the route above it, but mute times."""

    matchers: _Names = ()
    targets: _Names | None = None
    goes_on: bool = field(name="continue", default=False)
    group_by: _Names | None = None
    group_wait: _Duration | None = None
    group_interval: _Duration | None = None
    repeat_interval: _Duration | None = None
    mute_time_intervals: _Names = ()
    routes: tuple[RouteConfig, ...] = ()


class InhibitConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """While an alert that meets ``source`` fires, those that meet ``target`` with the same ``equal`` labels are not
    told."""

    source: _Names
    target: _Names
    equal: _Names = ("run", "boot")


class MuteTimeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a route is silent: in one span of every kind that is given."""

    location: str = "UTC"
    weekdays: _Names = ()
    times: _Names = ()
    days_of_month: _Names = ()
    months: _Names = ()
    years: _Names = ()


class AlertRuleConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the condition of alerts that meet ``matchers`` must last, and must stay away."""

    matchers: _Names
    for_: _Duration = field(name="for", default="0s")
    keep_firing_for: _Duration = "0s"


class StormConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``max_messages`` per run, target and hour; then one summary. 0: no limit."""

    max_messages: Annotated[int, Meta(ge=0, le=100_000)] = 30


class FlappingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From the ``opening``-th opening within ``window`` on, an end must hold ``hold``, then twice as long, at most
    ``longest``. 0: never."""

    opening: Annotated[int, Meta(ge=0, le=64)] = 3
    window: _Duration = "1h"
    hold: _Duration = "2m"
    longest: _Duration = "32m"


class AlertsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told what, and when. The settings of the route that everything takes; ``targets`` none given: all."""

    targets: _Names | None = None
    group_by: _Names = ("episode",)
    group_wait: _Duration = "0s"
    group_interval: _Duration = "0s"
    repeat_interval: _Duration = "4h"
    routes: tuple[RouteConfig, ...] = ()
    inhibit: tuple[InhibitConfig, ...] = ()
    inhibit_dead_processes: bool = True
    mute_times: dict[str, MuteTimeConfig] = {}
    rules: tuple[AlertRuleConfig, ...] = ()
    storm: StormConfig = StormConfig()
    flapping: FlappingConfig = FlappingConfig()


def routing_of(config: AlertsConfig) -> Routing:
    """The tree. :raises AlertsError: what :func:`alert_faults` finds."""
    root = RouteConfig(
        targets=config.targets,
        group_by=config.group_by,
        group_wait=config.group_wait,
        group_interval=config.group_interval,
        repeat_interval=config.repeat_interval,
        routes=config.routes,
    )
    return Routing(_node(root), {name: _mute_time(one) for name, one in config.mute_times.items()})


def alert_rules(config: AlertsConfig) -> tuple[AlertRule, ...]:
    """How long which conditions must last. :raises AlertsError: what :func:`alert_faults` finds."""
    return tuple(
        AlertRule(parse_matchers(one.matchers), parse_duration(one.for_), parse_duration(one.keep_firing_for))
        for one in config.rules
    )


def dispatcher_of(
    config: AlertsConfig,
    targets: Iterable[str],
    *,
    host: str = "",
    quiet: Iterable[str] = (),
    over: Callable[[str, str, float], bool] = lambda run, boot, now: False,
) -> Dispatcher:
    """See :class:`Dispatcher`. :raises AlertsError: what :func:`alert_faults` finds."""
    own = [InhibitRule(parse_matchers(one.source), parse_matchers(one.target), one.equal) for one in config.inhibit]
    flapping = config.flapping
    return Dispatcher(
        routing_of(config),
        targets,
        host=host,
        quiet=quiet,
        inhibit=[DEAD_PROCESS, *own] if config.inhibit_dead_processes else own,
        damping=Damping(
            flapping.opening,
            parse_duration(flapping.window),
            parse_duration(flapping.hold),
            parse_duration(flapping.longest),
        ),
        storms=StormLimits(config.storm.max_messages, parse_duration(config.repeat_interval)),
        over=over,
    )


def alert_faults(config: AlertsConfig, targets: Sequence[str]) -> list[Problem]:
    """What types cannot say about the alerts: matchers, times, names of targets and mute times."""
    problems = [*_route_faults(config, targets)]
    for name, one in config.mute_times.items():
        problems += _tried(f"alerts.mute_times.{name}", lambda one=one: _mute_time(one))  # type: ignore[misc]
    for number, inhibit in enumerate(config.inhibit):
        for side, texts in (("source", inhibit.source), ("target", inhibit.target)):
            problems += _matcher_faults(f"alerts.inhibit[{number}].{side}", texts)
    for number, rule in enumerate(config.rules):
        problems += _matcher_faults(f"alerts.rules[{number}].matchers", rule.matchers)
    return problems or _tried("alerts", lambda: routing_of(config))


def _route_faults(config: AlertsConfig, targets: Sequence[str]) -> Iterator[Problem]:
    yield from _target_faults("alerts.targets", config.targets, targets)
    yield from _repeat_faults("alerts", config.repeat_interval)
    for name, route in _walk("alerts", config.routes):
        if name.count("routes") > MAX_DEPTH:
            yield Problem(name, f"routes are nested more than {MAX_DEPTH} deep")
            return
        yield from _matcher_faults(f"{name}.matchers", route.matchers)
        yield from _target_faults(f"{name}.targets", route.targets, targets)
        yield from _repeat_faults(name, route.repeat_interval)


def _repeat_faults(name: str, text: str | None) -> Iterator[Problem]:
    if text is not None and parse_duration(text) < 60:
        yield Problem(f"{name}.repeat_interval", "must be at least 1m")


def _target_faults(name: str, given: _Names | None, targets: Sequence[str]) -> Iterator[Problem]:
    for one in given or ():
        if one not in targets:
            yield Problem(name, f"there is no target {one!r}; there are: {', '.join(targets) or 'none'}")


def _matcher_faults(name: str, texts: Iterable[str]) -> Iterator[Problem]:
    for text in texts:
        yield from _tried(name, lambda text=text: parse_matcher(text))  # type: ignore[misc]


def _tried(name: str, act: Callable[[], object]) -> list[Problem]:
    try:
        act()
    except AlertsError as error:
        return [Problem(name, str(error))]
    return []


def _walk(name: str, routes: Iterable[RouteConfig]) -> Iterator[tuple[str, RouteConfig]]:
    for number, route in enumerate(routes):
        yield f"{name}.routes[{number}]", route
        yield from _walk(f"{name}.routes[{number}]", route.routes)


def _node(route: RouteConfig) -> Node:
    return Node(
        matchers=parse_matchers(route.matchers),
        targets=route.targets,
        goes_on=route.goes_on,
        group_by=route.group_by,
        wait_seconds=_seconds(route.group_wait),
        interval_seconds=_seconds(route.group_interval),
        repeat_seconds=_seconds(route.repeat_interval),
        mute_times=route.mute_time_intervals,
        routes=tuple(map(_node, route.routes)),
    )


def _seconds(text: str | None) -> float | None:
    return None if text is None else parse_duration(text)


def _mute_time(one: MuteTimeConfig) -> MuteTime:
    return parse_mute_time(
        location=one.location,
        weekdays=one.weekdays,
        times=one.times,
        days_of_month=one.days_of_month,
        months=one.months,
        years=one.years,
    )
