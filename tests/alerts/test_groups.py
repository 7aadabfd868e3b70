"""Golden timelines: what happens, and who is told what and when. Every one also with a restart after each event."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlhfd_alerts.errors import RoutingError
from rlhfd_alerts.inhibition import InhibitRule
from rlhfd_alerts.matchers import parse_matchers
from rlhfd_alerts.mute_times import parse_mute_time
from rlhfd_alerts.routing import Node, Routing
from timelines import World, world

HOUR, DAY = 3600.0, 86400.0
GROUPED = Routing(Node(group_by=("run",), wait_seconds=30.0, interval_seconds=300.0))
SPACED = Routing(Node(wait_seconds=30.0, interval_seconds=300.0))
SPLIT = Routing(
    Node(targets=("chat",), routes=(Node(matchers=parse_matchers(["severity=critical"]), targets=("pager", "chat")),))
)
NIGHT = {"night": parse_mute_time(times=["00:00-06:00"])}
AT_NIGHT = Routing(Node(routes=(Node(matchers=parse_matchers(['run=~".+"']), mute_times=("night",)),)), NIGHT)

Steps = Callable[[World], object]
TIMELINES: dict[str, tuple[dict[str, object], tuple[str, ...], Steps, list[str]]] = {
    "opened, worse and over are told at once, joining and leaving are not": (
        {}, ("ops",),
        lambda w: w.at(1, "+e/a").at(2, "+e/b").at(3, "+e/c!").at(4, "-e/a", "-e/c!").at(5, "-e/b"),
        ["1 ops firing e warning", "3 ops firing e critical", "5 ops resolved e critical"],
    ),
    "information alone is not told": ({}, ("ops",), lambda w: w.at(1, "+e/a?").at(2, "-e/a?"), []),
    "information is told when it becomes more": (
        {}, ("ops",), lambda w: w.at(1, "+e/a?").at(2, "+e/b").at(3, "-e/b"),
        ["2 ops firing e warning", "3 ops resolved e warning"],
    ),
    "every target is told": (
        {}, ("a", "b"), lambda w: w.at(1, "+e/a").at(2, "-e/a"),
        ["1 a firing e warning", "1 b firing e warning", "2 a resolved e warning", "2 b resolved e warning"],
    ),
    "what still fires is told again after repeat_interval, counted from the last message": (
        {}, ("ops",), lambda w: w.at(0, "+e/a").at(HOUR, "+e/b!").until(10 * HOUR, 60),
        ["0 ops firing e warning", "3600 ops firing e critical", "18000 ops firing again e critical",
         "32400 ops firing again e critical"],
    ),
    "what is over is not told again": (
        {}, ("ops",), lambda w: w.at(0, "+e/a").at(10, "-e/a").until(2 * DAY, 600),
        ["0 ops firing e warning", "10 ops resolved e warning"],
    ),
    "what is over before group_wait has passed is told with its end": (
        {"routing": SPACED}, ("ops",), lambda w: w.at(0, "+e/a").at(10, "-e/a").until(40),
        ["30 ops firing e warning", "30 ops resolved e warning"],
    ),
    "the end waits for group_interval, and what opens again meanwhile is nothing new": (
        {"routing": SPACED}, ("ops",), lambda w: w.at(0, "+e/a").until(30).at(40, "-e/a").at(50, "+e/a").until(400),
        ["30 ops firing e warning"],
    ),
    "what is critical is told at once whatever group_wait says": (
        {"routing": SPACED}, ("ops",), lambda w: w.at(0, "+e/a!").at(1, "+f/a").at(2, "+f/b!").until(100),
        ["0 ops firing e critical", "2 ops firing f critical"],
    ),
    "openings while the end waits are settled with it": (
        {"routing": SPACED}, ("ops",),
        lambda w: w.at(0, "+e/a").until(30).at(40, "-e/a").at(50, "+e/a").at(60, "-e/a").until(400).until(900),
        ["30 ops firing e warning", "330 ops resolved e warning"],
    ),
    "the end of what was critical waits for group_interval, too": (
        {"routing": SPACED}, ("ops",), lambda w: w.at(0, "+e/a!").at(10, "-e/a!").until(400),
        ["0 ops firing e critical", "300 ops resolved e critical"],
    ),
    "what gets worse is told at once whatever group_interval says": (
        {"routing": SPACED}, ("ops",), lambda w: w.at(0, "+e/a").until(30).at(31, "+e/b!").until(500),
        ["30 ops firing e warning", "31 ops firing e critical"],
    ),
    "episodes of one group share a message": (
        {"routing": GROUPED}, ("ops",),
        lambda w: w.at(0, "+e/a").at(10, "+f/b").until(40).at(50, "+g/c").until(400).at(500, "-e/a", "-f/b", "-g/c")
        .until(700),
        ["30 ops firing group of e f warning", "330 ops firing group of e f g warning",
         "630 ops resolved group of e f g warning"],
    ),
    "a group is over when the last of it is": (
        {"routing": GROUPED}, ("ops",),
        lambda w: w.at(0, "+e/a", "+f/b").until(31).at(32, "-e/a").until(400).at(401, "-f/b").until(700),
        ["30 ops firing group of e f warning", "330 ops firing group of f warning",
         "630 ops resolved group of f warning"],
    ),
    "runs are groups of their own": (
        {"routing": GROUPED}, ("ops",),
        lambda w: w.at(0, "+e/a", run="r").at(10, "+f/b", run="s").until(60),
        ["30 ops firing group of e warning", "40 ops firing group of f warning"],
    ),
    "one that gets worse is told where that leads, too, and its end to all who know of it": (
        {"routing": SPLIT}, ("chat", "pager"),
        lambda w: w.at(1, "+e/a").at(2, "+e/b!").at(3, "-e/a", "-e/b!"),
        ["1 chat firing e warning", "2 chat firing e critical", "2 pager firing e critical",
         "3 chat resolved e critical", "3 pager resolved e critical"],
    ),
    "where a former opening led does not count": (
        {"routing": SPLIT}, ("chat", "pager"),
        lambda w: w.at(1, "+e/a!").at(2, "-e/a!").at(3, "+e/b").at(4, "-e/b"),
        ["1 pager firing e critical", "1 chat firing e critical", "2 pager resolved e critical",
         "2 chat resolved e critical", "3 chat firing e warning", "4 chat resolved e warning"],
    ),
    "an opening is told by the route that its own alerts lead to": (
        {"routing": Routing(Node(routes=(Node(matchers=parse_matchers(["rule=b"]), wait_seconds=30.0),)))}, ("ops",),
        lambda w: w.at(0, "+e/a").at(1, "-e/a").at(2, "+e/b").until(40),
        ["0 ops firing e warning", "1 ops resolved e warning", "32 ops firing e warning"],
    ),
    "a target that wants no ends gets none": (
        {"quiet": ("b",)}, ("a", "b"), lambda w: w.at(1, "+e/a").at(2, "-e/a").at(3, "+e/a"),
        ["1 a firing e warning", "1 b firing e warning", "2 a resolved e warning", "3 a firing e warning",
         "3 b firing e warning"],
    ),
    "a target that wants no ends is told of one that came before the target could be told that it fires": (
        {"quiet": ("b",), "routing": SPACED}, ("b",),
        lambda w: w.at(0, "+e/a").at(10, "-e/a").until(40).at(40, "+f/a").until(80).at(90, "-f/a").until(400)
        .at(401, "+f/a").until(600),
        ["30 b firing e warning", "30 b resolved e warning", "70 b firing f warning", "401 b firing f warning"],
    ),
    "a target that wants no ends is not told that a part of a group is over": (
        {"quiet": ("b",), "routing": GROUPED}, ("b",),
        lambda w: w.at(0, "+e/a", "+f/b").until(31).at(32, "-e/a").until(400).at(401, "-f/b").until(800),
        ["30 b firing group of e f warning"],
    ),
    "a silence keeps it from being told until it ends": (
        {}, ("ops",), lambda w: w.silence('rule="a"', until=100).at(1, "+e/a").at(2, "+f/b").until(200),
        ["2 ops firing f warning", "100 ops firing e warning"],
    ),
    "what began and ended under a silence is never told": (
        {}, ("ops",), lambda w: w.silence('rule="a"', until=100).at(1, "+e/a").at(50, "-e/a").until(200), [],
    ),
    "an episode is told if one alert of it above information is not silenced": (
        {}, ("ops",), lambda w: w.silence('rule="a"', until=100).at(1, "+e/a").at(2, "+e/b?").at(3, "+e/c").until(200),
        ["3 ops firing e warning"],
    ),
    "the end of what was told is told under a silence": (
        {}, ("ops",), lambda w: w.at(1, "+e/a").silence('rule="a"', until=1000).at(20, "-e/a").until(2000, 10),
        ["1 ops firing e warning", "20 ops resolved e warning"],
    ),
    "under a silence it is not told again, and after it at once if it is time": (
        {}, ("ops",), lambda w: w.at(0, "+e/a").until(100).silence('rule="a"', until=5 * HOUR).until(6 * HOUR, 60),
        ["0 ops firing e warning", "18040 ops firing again e warning"],
    ),
    "while a process is dead the metrics of its run are not told": (
        {}, ("ops",),
        lambda w: w.at(1, "+d/actor_death!", family="system").at(2, "+e/a").at(3, "+e/b!").at(9, "-d/actor_death!"),
        ["1 ops firing d critical", "9 ops resolved d critical", "9 ops firing e critical"],
    ),
    "metrics of another run are": (
        {}, ("ops",), lambda w: w.at(1, "+d/actor_death!", family="system").at(2, "+e/a", run="other"),
        ["1 ops firing d critical", "2 ops firing e warning"],
    ),
    "inhibition of one's own": (
        {"inhibit": [InhibitRule(parse_matchers(["rule=a"]), parse_matchers(["rule=b"]), ("run",))]}, ("ops",),
        lambda w: w.at(1, "+e/a").at(2, "+f/b").at(3, "-f/b").at(4, "+f/b").at(5, "-e/a"),
        ["1 ops firing e warning", "5 ops resolved e warning", "5 ops firing f warning"],
    ),
    "in a mute time nothing is told, not even an end; afterwards what is still true": (
        {"routing": AT_NIGHT}, ("ops",),
        lambda w: w.at(23 * HOUR - DAY, "+e/a").at(-HOUR / 2, "+g/c").at(HOUR, "+f/b!").at(2 * HOUR, "-e/a")
        .at(3 * HOUR, "+h/d").at(4 * HOUR, "-h/d").until(7 * HOUR, 60),
        ["-3600 ops firing e warning", "-1800 ops firing g warning", "21600 ops firing again g warning",
         "21600 ops resolved e warning", "21600 ops firing f critical"],
    ),
    "what is acknowledged is not told again, but that it gets worse and is over": (
        {}, ("ops",),
        lambda w: w.at(0, "+e/a").ack("e").until(9 * HOUR, 60).at(10 * HOUR, "+e/b!").until(15 * HOUR, 60)
        .at(16 * HOUR, "-e/a", "-e/b!"),
        ["0 ops firing e warning", "36000 ops firing e critical", "50400 ops firing again e critical",
         "57600 ops resolved e critical"],
    ),
    "an acknowledgement is of one opening": (
        {}, ("ops",), lambda w: w.at(0, "+e/a").ack("e").at(10, "-e/a").at(20, "+e/a").until(5 * HOUR, 60),
        ["0 ops firing e warning", "10 ops resolved e warning", "20 ops firing e warning",
         "14420 ops firing again e warning"],
    ),
    "from the third opening within an hour on an end has to hold, ever longer": (
        {}, ("ops",),
        lambda w: w.at(0, "+e/a").at(10, "-e/a").at(20, "+e/a").at(30, "-e/a").at(40, "+e/a").at(50, "-e/a").until(100)
        .at(110, "+e/a").at(120, "-e/a").until(350).at(355, "+e/a").at(360, "-e/a").until(2000),
        ["0 ops firing e warning", "10 ops resolved e warning", "20 ops firing e warning", "30 ops resolved e warning",
         "40 ops firing e warning", "840 ops resolved e warning"],
    ),
    "an opening after the hour counts as the first": (
        {}, ("ops",),
        lambda w: w.at(0, "+e/a").at(1, "-e/a").at(2, "+e/a").at(3, "-e/a").until(3599, 1).at(3605, "+e/a")
        .at(3610, "-e/a"),
        ["0 ops firing e warning", "1 ops resolved e warning", "2 ops firing e warning", "3 ops resolved e warning",
         "3605 ops firing e warning", "3610 ops resolved e warning"],
    ),
    "what gets worse while its end is held is told": (
        {}, ("ops",),
        lambda w: w.at(0, "+e/a").at(1, "-e/a").at(2, "+e/a").at(3, "-e/a").at(4, "+e/a").at(5, "-e/a").at(6, "+e/b!"),
        ["0 ops firing e warning", "1 ops resolved e warning", "2 ops firing e warning", "3 ops resolved e warning",
         "4 ops firing e warning", "6 ops firing e critical"],
    ),
    "opened and over within one record": (
        {}, ("ops",), lambda w: w.at(1, "+e/a", "-e/a"), ["1 ops firing e warning", "1 ops resolved e warning"],
    ),
}  # fmt: skip


class Restarted(World):
    """Killed and started again after everything that happens."""

    def at(self, now: float, *changes: str, **labels: str) -> World:
        super().at(now, *changes, **labels)
        return self.restart()

    def until(self, now: float, step: float = 1.0) -> World:
        super().until(now, step)
        return self.restart()


@pytest.mark.parametrize("kind", [World, Restarted])
@pytest.mark.parametrize("name", TIMELINES)
def test_promise_D9_timelines_are_as_written(name: str, kind: type[World]) -> None:
    settings, targets, steps, expected = TIMELINES[name]
    found = kind(world(*targets, **settings).make)
    steps(found)
    assert found.said == expected


def test_promise_D9_what_fires_for_ten_days_is_told_every_four_hours_and_no_retention_makes_it_more() -> None:
    ten = world().at(0, "+e/a")
    for hour in range(240):
        ten.until(hour * HOUR, 600)
        if hour % 24 == 5:
            ten.restart()
        # Other episodes come and go; what is kept of settled things is pruned meanwhile.
        ten.at(hour * HOUR + 1, f"+o{hour}/x").at(hour * HOUR + 2, f"-o{hour}/x")
    of_e = [line for line in ten.said if " e " in line]
    assert of_e == ["0 ops firing e warning", *(f"{n * 14400} ops firing again e warning" for n in range(1, 60))]
    assert len(ten.rows) < 20, "what is over is forgotten"


def test_a_daemon_that_was_away_reminds_once() -> None:
    away = world().at(0, "+e/a")
    away.now = 10 * DAY
    away.restart().until(10 * DAY + 60)
    assert away.said == ["0 ops firing e warning", "864001 ops firing again e warning"]
    assert away.sent[-1][1].notification.lead.time == 10 * DAY, "as of its return, not of what it missed"


def test_nobody_is_reminded_of_a_launch_that_is_over() -> None:
    over = world(over=lambda run, boot, now: now > HOUR).at(0, "+e/a").until(10 * HOUR, 60)
    assert over.said == ["0 ops firing e warning"]


def test_a_clock_that_is_set_back_holds_up_nothing() -> None:
    back = world(routing=SPACED).at(10 * DAY, "+e/a")
    back.now = 5 * DAY
    back.until(5 * DAY + 100)
    assert back.said == ["432001 ops firing e warning"]


def test_other_targets_after_a_reload_learn_what_fires_and_the_old_do_not_hear_it_again() -> None:
    reloaded = world("a").at(0, "+e/a")
    reloaded.dispatcher.configure(("a", "b"), ())
    reloaded.until(2)
    reloaded.dispatcher.configure(("b",), ())
    reloaded.at(3, "+e/b!")
    reloaded.dispatcher.configure(("a", "b"), ())
    reloaded.until(4).at(5, "-e/a", "-e/b!")
    assert reloaded.said == [
        "0 a firing e warning", "1 b firing e warning", "3 b firing e critical", "4 a firing e critical",
        "5 a resolved e critical", "5 b resolved e critical",
    ]  # fmt: skip


def test_routes_that_were_changed_over_a_restart_tell_nobody_twice() -> None:
    changed = world("a").at(0, "+e/a")
    changed.make = world("a", routing=Routing(Node(routes=(Node(matchers=parse_matchers(["rule=a"])),)))).make
    changed.restart().until(100).at(200, "-e/a").until(600)
    assert changed.said == ["0 a firing e warning", "200 a resolved e warning"]


def test_ids_are_the_same_for_every_target_and_differ_between_messages() -> None:
    many = world("a", "b").at(0, "+e/a").until(9 * HOUR, 60).at(10 * HOUR, "-e/a")
    ids = [(one.target, one.notification.id) for _, one in many.sent]
    assert [id_ for target, id_ in ids if target == "a"] == [id_ for target, id_ in ids if target == "b"]
    assert len({id_ for _, id_ in ids}) == 4


def test_only_what_is_open_can_be_acknowledged() -> None:
    one = world().at(0, "+e/a").at(1, "-e/a")
    with pytest.raises(RoutingError, match="is over"):
        one.ack("e")
    with pytest.raises(RoutingError, match="alerts list"):
        one.ack("x")


def test_what_is_stored_and_cannot_be_read_costs_nothing_but_itself() -> None:
    broken = world().at(0, "+e/a").at(1, "+f/b")
    broken.rows = {key: "[]" if key.endswith("\x1fe") else text for key, text in broken.rows.items()}
    broken.restart().at(2, "-f/b")
    assert broken.said[-1] == "2 ops resolved f warning"


def test_a_shared_message_says_which_of_its_episodes_are_over() -> None:
    """Those that go on come first and head it; a receiver sees what is over as over, once."""
    w = world("ops", routing=GROUPED)
    w.at(0, "+e/a", "+f/b").until(31).at(32, "-e/a").until(400)
    w.at(401, "+g/c").at(402, "-f/b").until(800)
    shown = [
        [(one.finding.rule, one.state.value) for one in notification.episode.members]
        for _, sent in w.sent
        if (notification := sent.notification).episode is not None
    ]
    assert shown == [
        [("a", "firing"), ("b", "firing")],
        [("b", "firing"), ("a", "resolved")],
        [("c", "firing"), ("b", "resolved")],
    ]


def test_an_episode_that_passed_before_a_shared_message_is_over_in_it() -> None:
    w = world("ops", routing=GROUPED)
    w.at(0, "+e/a").at(1, "+f/b").at(2, "-f/b").until(40)
    ((_, sent),) = w.sent
    assert sent.notification.episode is not None
    assert [(one.finding.rule, one.state.value) for one in sent.notification.episode.members] == [
        ("a", "firing"), ("b", "resolved"),
    ]  # fmt: skip
