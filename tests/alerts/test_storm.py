"""Storms: how many messages there are, what is never held back, what the summary says and when it is over."""

from __future__ import annotations

import json

import pytest

from rlhfd_alerts.content import body
from rlhfd_alerts.ledger import MAX_SUBJECTS
from rlhfd_alerts.routing import Node, Routing
from rlhfd_alerts.storm import RULE, StormLimits
from timelines import World, finding_of, world

HOUR = 3600.0
THREE = StormLimits(max_messages=3, update_seconds=600.0)


def flooded(count: int, *, limits: StormLimits = THREE, mark: str = "", **settings: object) -> World:
    found = world(storms=limits, **settings)
    return found.at(0, *(f"+e{n}/r{n % 4}{mark}" for n in range(count)))


def test_one_summary_counts_what_is_held_back() -> None:
    storm = flooded(10).until(60)
    assert storm.said == [
        "0 ops firing e0 warning", "0 ops firing e1 warning", "0 ops firing e2 warning",
        "10 ops firing storm of 7 warning",
    ]  # fmt: skip
    finding = finding_of(storm.sent[-1][1].notification)
    assert finding.rule == RULE
    assert finding.summary == "alert storm: 7 more episodes (7 warning) are held back, by rule: r0 2, r1 2, r3 2, r2 1"
    content = json.loads(json.dumps(body(storm.sent[-1][1].notification)))
    assert content["data"]["alerts"][0]["value"] == 7.0


def test_the_summary_is_updated_while_it_grows_and_ends_an_hour_after_the_last() -> None:
    storm = flooded(5).until(100).at(200, "+x/a").until(900, 10).at(1000, "-x/a").until(2 * HOUR, 10)
    assert [line for line in storm.said if "storm" in line] == [
        "10 ops firing storm of 2 warning", "610 ops firing storm of 3 warning", "3800 ops resolved storm of 3 warning",
    ]  # fmt: skip
    assert " over" in finding_of(storm.sent[-1][1].notification).summary


def test_a_critical_rule_that_the_storm_has_not_told_of_is_told_each_once() -> None:
    storm = flooded(10, mark="!").at(1, "+w/other").at(2, "+z/new!").at(3, "+z2/new!").until(60)
    assert storm.said == [
        "0 ops firing e0 critical", "0 ops firing e1 critical", "0 ops firing e2 critical", "0 ops firing e3 critical",
        "2 ops firing z critical", "10 ops firing storm of 8 critical",
    ]  # fmt: skip


def test_what_becomes_critical_in_a_storm_is_told() -> None:
    storm = flooded(5).at(5, "+e4/boom!")
    assert storm.said[3:] == ["5 ops firing e4 critical"]


def test_what_was_held_back_is_not_told_to_be_over_but_again_if_it_lasts() -> None:
    storm = flooded(5).at(20, "-e3/r3").until(5 * HOUR, 60)
    assert "e3" not in " ".join(storm.said)
    assert [line for line in storm.said if "e4" in line] == ["14420 ops firing again e4 warning"]
    storm.at(6 * HOUR, "-e4/r0")
    assert storm.said[-1] == "21600 ops resolved e4 warning"


def test_ends_wait_for_room_and_are_told() -> None:
    storm = flooded(3).at(10, "-e0/r0").until(HOUR + 10, 10)
    assert storm.said[3:] == ["3600 ops resolved e0 warning"]


def test_the_ends_that_a_target_is_not_told_need_no_room() -> None:
    storm = flooded(3, quiet=("ops",)).at(10, "-e0/r0")
    assert storm.dispatcher.ledger.places["e0"]["ops"].told is None
    assert len(storm.said) == 3


def test_a_target_that_wants_no_ends_is_not_told_that_a_storm_is_over() -> None:
    storm = flooded(5, quiet=("ops",)).until(60).until(3 * HOUR, 60)
    assert [line for line in storm.said if "storm" in line] == ["10 ops firing storm of 2 warning"]


def test_targets_and_runs_have_storms_of_their_own() -> None:
    found = world("a", "b", storms=THREE)
    for number in range(4):
        found.at(number, f"+e{number}/x", run="r")
    found.at(5, "+f/x", run="s").until(30)
    assert [line for line in found.said if "storm" in line] == [
        "13 a firing storm of 1 warning", "13 b firing storm of 1 warning",
    ]  # fmt: skip
    assert found.said[6:8] == ["5 a firing f warning", "5 b firing f warning"]


def test_a_storm_goes_on_over_a_restart() -> None:
    once, twice = flooded(10), flooded(10).restart()
    for one in (once, twice):
        one.at(1, "+y/z").restart().until(30).at(40, "+q/q").until(2 * HOUR, 60)
    assert once.said == twice.said
    assert "10 ops firing storm of 8 warning" in once.said


def test_what_still_fires_is_not_told_again_where_there_is_no_room() -> None:
    storm = flooded(3).until(4 * HOUR - 100, 60).at(4 * HOUR - 100, "+x/a", "+y/b", "+z/c").until(5 * HOUR, 60)
    assert (len(storm.said), [line for line in storm.said if "again" in line]) == (6, [])


def test_what_was_told_long_ago_is_forgotten() -> None:
    storm = flooded(5).at(20, *(f"-e{n}/r{n % 4}" for n in range(5)))
    assert [key for key in storm.rows if key.startswith("storm")]
    storm.until(3 * HOUR, 60)
    assert (storm.dispatcher.ledger.storms, storm.rows) == ({}, {})


def test_no_limit_is_no_storm() -> None:
    assert len(flooded(100, limits=StormLimits(max_messages=0)).said) == 100


@pytest.mark.parametrize("routing", [None, Routing(Node(group_by=("rule",)))])
def test_promise_D17_ten_thousand_findings_at_once_are_a_handful_of_messages_in_bounded_memory(
    routing: Routing | None,
) -> None:
    limits = StormLimits()
    storm = world("a", "b", storms=limits, routing=routing)
    critical = [f"+c{n}/critical{n % 7}!" for n in range(500)]
    episodes = [f"+e{n % 1400}/rule{n}" for n in range(9500)]
    storm.at(0, *episodes, *critical)
    rows = dict(storm.rows)
    storm.until(HOUR, 60)
    assert len(storm.dispatcher.ledger.subjects) <= MAX_SUBJECTS
    for target in ("a", "b"):
        told = [one.notification for _, one in storm.sent if one.target == target]
        assert len(told) <= limits.max_messages + 7 + 2
        rules = {t.alert.finding.rule for one in told for t in one.transitions}
        assert {f"critical{n}" for n in range(7)} <= rules, "no critical kind is swallowed"
        assert routing is not None or RULE in rules
    assert len(rows) < 7000
    assert sum(map(len, rows.values())) < 5e6
