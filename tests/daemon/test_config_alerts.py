"""The alerts section: what it means, and that every mistake is named with its place and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfd_daemon.config import AlertsConfig, Config, load
from rlhfd_daemon.config_alerts import alert_rules, dispatcher_of, routing_of
from rlhfd_daemon.errors import ConfigError

TARGETS = '[targets.chat]\nurl = "https://example.com/a"\n[targets.pager]\nurl = "https://example.com/b"\n'
GOOD = (
    TARGETS
    + """
[alerts]
targets = ["chat"]
group_by = ["run"]
group_wait = "30s"
group_interval = "5m"
repeat_interval = "12h"

[[alerts.routes]]
matchers = ['severity="critical"']
targets = ["pager"]
continue = true
group_wait = "0s"

[[alerts.routes]]
matchers = ['run=~"ppo-.*"']

[[alerts.routes.routes]]
matchers = ['family="length"']
mute_time_intervals = ["weekend"]

[alerts.mute_times.weekend]
weekdays = ["saturday", "sunday"]
location = "Europe/Berlin"

[[alerts.inhibit]]
source = ['rule="kl_runaway"']
target = ['rule="entropy_collapse"']

[[alerts.rules]]
matchers = ['family="throughput"']
for = "2m"
keep_firing_for = "5m"

[alerts.storm]
max_messages = 10
"""
)


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "rlhfd.toml"
    path.write_text(text)
    return load(path, {"HOME": str(tmp_path)})


def test_a_tree_of_routes_is_read(tmp_path: Path) -> None:
    config = loaded(tmp_path, GOOD)
    routing = routing_of(config.alerts)
    known = tuple(config.targets)
    found = routing.targets_for({"severity": "critical", "run": "ppo-1", "family": "length"}, known)
    assert list(found) == ["pager", "chat"]
    assert (found["pager"].timing.wait_seconds, found["chat"].timing.wait_seconds) == (0.0, 30.0)
    assert found["chat"].timing.mute_times == ("weekend",)
    assert found["chat"].timing.repeat_seconds == 43200.0
    assert routing.muted_by(found["chat"], 1767470400.0) == "weekend"  # Saturday, 2026-01-03
    (rule,) = alert_rules(config.alerts)
    assert (rule.for_seconds, rule.keep_firing_seconds) == (120.0, 300.0)
    dispatcher = dispatcher_of(config.alerts, known)
    dispatcher.muting.inhibition.fires("a", {"rule": "kl_runaway", "run": "r", "boot": "b"})
    assert dispatcher.muting.reason({"rule": "entropy_collapse", "run": "r", "boot": "b"}, 0.0) == "inhibited by a"


def test_nothing_given_is_everything_to_everybody_at_once() -> None:
    (route,) = routing_of(AlertsConfig()).routes_for({})
    assert (route.targets, route.timing.group_by, route.timing.wait_seconds) == (None, ("episode",), 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[alerts]\ngroup_wiat = "1s"', 'alerts.group_wiat: unknown key; did you mean "group_wait"?'),
        ('[alerts]\ngroup_wait = "1 s"', "alerts.group_wait"),
        ("[alerts]\ngroup_wait = 30", "alerts.group_wait: expected `str`, got `int`"),
        ('[alerts]\nrepeat_interval = "5s"', "alerts.repeat_interval: must be at least 1m"),
        ('[alerts]\ntargets = ["pagr"]', "alerts.targets: there is no target 'pagr'; there are: chat, pager"),
        ('[[alerts.routes]]\ntargts = ["chat"]', 'alerts.routes[0].targts: unknown key; did you mean "targets"?'),
        (
            "[[alerts.routes]]\n[[alerts.routes.routes]]\nmatchers = ['x']",
            "alerts.routes[0].routes[0].matchers: 'x' is",
        ),
        ("[[alerts.routes]]\nmatchers = ['run=~\"(a+)+\"']", "must not be repeated"),
        ('[[alerts.routes]]\nmute_time_intervals = ["night"]', "there is no mute time 'night'"),
        ('[alerts.mute_times.night]\ntimes = ["22:00-06:00"]', "alerts.mute_times.night: '22:00-06:00' ends before"),
        ("[[alerts.inhibit]]\nsource = ['a=b']", "alerts.inhibit[0].target: is missing"),
        ("[[alerts.inhibit]]\nsource = ['a']\ntarget = ['a=b']", "alerts.inhibit[0].source: 'a' is no matcher"),
        ("[[alerts.rules]]\nmatchers = ['a=b']\nfro = \"1m\"", 'alerts.rules[0].fro: unknown key; did you mean "for"?'),
        ("[alerts.storm]\nmax_messages = -1", "alerts.storm.max_messages"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, TARGETS + text)
    assert expected in str(caught.value)
