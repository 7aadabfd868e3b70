"""Who is told what: the tree, what is inherited, the first route to a target."""

from __future__ import annotations

import pytest

from rlhfd_alerts.durations import parse_duration, spell_duration
from rlhfd_alerts.errors import RoutingError
from rlhfd_alerts.matchers import parse_matchers
from rlhfd_alerts.mute_times import parse_mute_time
from rlhfd_alerts.routing import Node, Routing

ALL = ("slack", "pager", "mail")


def node(*texts: str, **settings: object) -> Node:
    return Node(matchers=parse_matchers(texts), **settings)  # type: ignore[arg-type]


TREE = Routing(
    Node(
        targets=("slack",),
        group_by=("run",),
        wait_seconds=30.0,
        interval_seconds=300.0,
        routes=(
            node('severity="critical"', targets=("pager",), goes_on=True, wait_seconds=0.0),
            node(
                'run=~"ppo.*"',
                repeat_seconds=60.0,
                routes=(node('family="kl"', targets=("mail", "slack")), node('family="reward"', group_by=("rule",))),
            ),
            node('run="sft"', targets=()),
        ),
    )
)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({}, ["slack"]),
        ({"run": "dpo"}, ["slack"]),
        ({"severity": "critical"}, ["pager"]),
        ({"severity": "critical", "run": "ppo-1"}, ["pager", "slack"]),
        ({"run": "ppo-1", "family": "kl"}, ["mail", "slack"]),
        ({"run": "ppo-1", "family": "length"}, ["slack"]),
        ({"run": "sft"}, []),
        ({"run": "sft", "severity": "critical"}, ["pager"]),
    ],
)
def test_the_tree_is_taken_as_in_alertmanager(labels: dict[str, str], told: list[str]) -> None:
    assert list(TREE.targets_for(labels, ALL)) == told


def test_what_a_route_does_not_set_is_as_above_it() -> None:
    (route,) = TREE.routes_for({"run": "ppo-1", "family": "reward"})
    timing = route.timing
    assert route.targets == ("slack",)
    assert (timing.group_by, timing.wait_seconds, timing.interval_seconds, timing.repeat_seconds) == (
        ("rule",), 30.0, 300.0, 60.0,
    )  # fmt: skip
    assert route.id == '{}/{run=~"ppo.*"}/{family="reward"}'


def test_without_a_route_every_target_is_told_everything_at_once_and_again_after_four_hours() -> None:
    found = Routing().targets_for({"run": "x"}, ALL)
    assert list(found) == list(ALL)
    timing = found["pager"].timing
    assert (timing.group_by, timing.wait_seconds, timing.interval_seconds, timing.repeat_seconds) == (
        ("episode",), 0.0, 0.0, 14400.0,
    )  # fmt: skip


def test_a_target_is_told_once_by_the_first_route_that_leads_there() -> None:
    tree = Routing(Node(routes=(node('rule="a"', targets=("x",), goes_on=True), node('run="r"', targets=("x", "y")))))
    found = tree.targets_for({"rule": "a", "run": "r"}, ("x", "y"))
    assert {name: route.id for name, route in found.items()} == {"x": '{}/{rule="a"}', "y": '{}/{run="r"}'}


def test_a_target_that_is_not_configured_gets_nothing() -> None:
    assert TREE.targets_for({"severity": "critical"}, ("slack",)) == {}
    assert TREE.targets() == {"slack", "pager", "mail"}


def test_group_by_names_labels_or_all_of_them() -> None:
    labels = {"rule": "kl", "run": "r"}
    (by_run,) = Routing(Node(group_by=("run", "host"))).routes_for(labels)
    assert by_run.group_of(labels) == (("run", "r"), ("host", ""))
    (by_all,) = Routing(Node(group_by=("...",))).routes_for(labels)
    assert by_all.group_of(labels) == (("rule", "kl"), ("run", "r"))


def test_mute_times_are_the_routes_own_and_must_exist() -> None:
    night = parse_mute_time(times=["00:00-06:00"])
    inner = node("role=critic")
    tree = Routing(Node(routes=(node("run=r", mute_times=("night",), routes=(inner,)),)), {"night": night})
    (route,) = tree.routes_for({"run": "r"})
    (below,) = tree.routes_for({"run": "r", "role": "critic"})
    assert tree.muted_by(route, 3600.0) == "night"
    assert tree.muted_by(route, 7 * 3600.0) is None
    assert tree.muted_by(below, 3600.0) is None
    with pytest.raises(RoutingError, match='did you mean "night"'):
        Routing(Node(routes=(node("run=r", mute_times=("nigth",)),)), {"night": night})


def test_the_root_takes_everything() -> None:
    with pytest.raises(RoutingError, match="root"):
        Routing(node("run=r"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("0", 0), ("1h30m", 5400), ("500ms", 0.5), ("2d", 172800), ("1w1d", 691200)]
)
def test_durations_are_spelled_as_in_alertmanager(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    if seconds >= 1:
        assert parse_duration(spell_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 m", "1m1h", "-1s", "1.5h", "h"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)
