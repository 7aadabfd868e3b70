"""Which findings belong together: tables of findings and episodes, and the order of causes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_alerts.alert import Alert, AlertState, Place
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_alerts.testing import example_finding
from rlhfd_daemon.kinship import Moment, Outline, Span, Tie, causal_order, tie

INFO, WARNING, CRITICAL = Severity
GRAPH = {
    "lr_jump": ("grad_spike", "level_change"),
    "level_change": ("lr_jump",),
    "grad_spike": ("non_finite",),
    "egg": ("hen",),
    "hen": ("egg",),
}


def explains(rule: str) -> Collection[str]:
    return GRAPH.get(rule, ())


def found(step: int | None = 100, time: float | None = None, **changes: Any) -> Finding:
    """A finding whose onset is ``step``, seconds later by default: far from each other unless the steps say near."""
    seconds = 10_000.0 * (step or 0) if time is None else time
    given = {"rule": "r", "metric": "m", "family": "kl", "onset_step": step, "step": step}
    return example_finding(**{**given, "onset_time": seconds, "time": seconds, **changes})


def outline(*members: Finding, ended: Moment | None = None) -> Outline:
    """The outline of an episode in which all of ``members`` are active, or all are over."""
    made = Outline(is_open=ended is None, ended=ended)
    made.severity = max((member.severity for member in members), key=lambda severity: severity.rank)
    for member in members:
        moments = (Moment(member.onset_time, member.onset_step), Moment(member.time, member.step))
        made.slight.add(*moments)
        if member.severity is not INFO:
            made.grave.add(*moments)
            if ended is None:
                made.topics.add(member)
    return made


def tied(finding: Finding, *members: Finding, ended: Moment | None = None) -> Tie:
    return tie(finding, outline(*members, ended=ended), members, explains)


FAR: dict[str, Any] = {"rule": "other", "metric": "x", "family": "length"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"step": 130, **FAR}, Tie.CLOSE),
        ({"step": 131, **FAR}, Tie.NONE),
        ({"step": 70, **FAR}, Tie.CLOSE),
        ({"step": 9000}, Tie.SAME),
        ({"step": 9000, "rule": "other", "family": "length"}, Tie.RELATED),  # the same metric
        ({"step": 9000, "metric": "x"}, Tie.NONE),  # its rule and family alone, but much later
        ({"step": 400, "metric": "x", "rule": "other"}, Tie.RELATED),
        ({"step": 401, "metric": "x", "rule": "other"}, Tie.NONE),
    ],
)
def test_an_open_episode_takes_what_is_near_or_about_the_same(changes: dict[str, Any], expected: Tie) -> None:
    assert tied(found(**changes), found(100)) is expected


@pytest.mark.parametrize(
    ("onset", "found_at", "expected"), [(20, 100, Tie.CLOSE), (20, 130, Tie.CLOSE), (20, 131, Tie.NONE)]
)
def test_what_began_long_before_joins_when_it_is_found_at_the_same_time(
    onset: int, found_at: int, expected: Tie
) -> None:
    slow = found(found_at, **FAR, onset_step=onset)
    assert tied(slow, found(100)) is expected


def test_nearness_follows_the_latest_onset() -> None:
    assert tied(found(150, **FAR), found(100), found(125, metric="b", family="entropy")) is Tie.CLOSE
    assert tied(found(150, **FAR), found(100)) is Tie.NONE


@pytest.mark.parametrize(("seconds", "expected"), [(1300.0, Tie.CLOSE), (1300.5, Tie.NONE), (700.0, Tie.CLOSE)])
def test_without_steps_on_both_sides_time_decides(seconds: float, expected: Tie) -> None:
    stall = found(None, 1000.0, rule="stalled_phase", family="stall", metric="phase")
    assert tied(found(None, seconds, **FAR), stall) is expected
    assert tied(found(7, seconds, **FAR), stall) is expected
    assert tied(stall, found(7, seconds, **FAR)) is expected


@pytest.mark.parametrize("family", ["system", "custom"])
def test_a_mixed_family_ties_nothing_but_its_rules_do(family: str) -> None:
    member = found(100, family=family)
    assert tied(found(300, family=family, rule="other", metric="x"), member) is Tie.NONE
    assert tied(found(300, family=family, metric="x"), member) is Tie.RELATED


@pytest.mark.parametrize(
    ("rule", "member", "expected"),
    [
        ("grad_spike", "lr_jump", Tie.RELATED),
        ("lr_jump", "grad_spike", Tie.RELATED),
        ("non_finite", "lr_jump", Tie.NONE),
    ],
)
def test_rules_that_explain_each_other_tie(rule: str, member: str, expected: Tie) -> None:
    assert tied(found(400, **{**FAR, "rule": rule}), found(100, rule=member)) is expected
    assert tied(found(401, **{**FAR, "rule": rule}), found(100, rule=member)) is Tie.NONE


def test_rules_that_watch_any_metric_are_tied_by_their_metrics_alone() -> None:
    generic = {**FAR, "rule": "level_change"}
    assert tied(found(200, **generic), found(100, rule="lr_jump")) is Tie.NONE
    assert tied(found(200, **{**FAR, "rule": "lr_jump"}), found(100, rule="level_change")) is Tie.NONE
    assert tied(found(9000, **{**generic, "metric": "m"}), found(100, rule="lr_jump")) is Tie.RELATED


@pytest.mark.parametrize(
    ("later", "changes", "expected"),
    [
        (50, {}, Tie.SAME),
        (51, {}, Tie.NONE),
        (50, {"metric": "x"}, Tie.AGAIN),
        (51, {"metric": "x"}, Tie.NONE),
        (50, FAR, Tie.NONE),
        (50, {**FAR, "metric": "m"}, Tie.AGAIN),
    ],
)
def test_what_is_over_opens_again_for_its_own_kind_soon_after(
    later: int, changes: dict[str, Any], expected: Tie
) -> None:
    ended = Moment(10_000.0 * 200, 200)
    assert tied(found(200 + later, **changes), found(100), ended=ended) is expected


@pytest.mark.parametrize(("later", "expected"), [(600.0, Tie.SAME), (600.5, Tie.NONE)])
def test_of_steps_and_time_the_longer_counts_for_opening_again(later: float, expected: Tie) -> None:
    ended = Moment(1000.0, 200)
    assert tied(found(5000, 1000.0 + later), found(100, 0.0), ended=ended) is expected
    assert tied(found(None, 1000.0 + later), found(100, 0.0), ended=ended) is expected


def test_information_joins_what_is_wrong_but_attracts_nothing() -> None:
    hint, bad = found(100, severity=INFO), found(100)
    assert tied(found(110, **FAR, severity=INFO), bad) is Tie.CLOSE
    assert tied(found(110, **FAR), hint) is Tie.NONE
    assert tied(found(110, metric="m2"), hint) is Tie.NONE
    assert tied(found(110, **FAR, severity=INFO), hint) is Tie.CLOSE
    assert tied(found(110), hint) is Tie.SAME, "the same condition has become worse"


def test_information_opens_no_warning_again() -> None:
    ended = Moment(10_000.0 * 110, 110)
    assert tied(found(112, severity=INFO), found(100), ended=ended) is Tie.NONE
    assert tied(found(112, severity=INFO), found(100, severity=INFO), ended=ended) is Tie.SAME
    assert tied(found(112, metric="x"), found(100, severity=INFO), ended=ended) is Tie.NONE


Moments = st.builds(Moment, st.floats(0, 1e9), st.none() | st.integers(0, 10_000))


@given(st.lists(st.tuples(Moments, Moments), max_size=6), st.randoms())
def test_a_span_does_not_depend_on_the_order(moments: list[tuple[Moment, Moment]], source: Any) -> None:
    one, other = Span(), Span()
    for pair in moments:
        one.add(*pair)
    source.shuffle(moments)
    for pair in moments:
        other.add(*pair)
    assert one == other


@given(Moments, Moments)
def test_nothing_is_near_an_empty_span(begun: Moment, seen: Moment) -> None:
    assert not Span().is_near(begun, seen)


def alert(finding: Finding, place: Place | None = None, name: str = "") -> Alert:
    fingerprint = name or f"{finding.rule}/{finding.metric}"
    return Alert(fingerprint, finding, finding.time, None, finding.step, None, AlertState.FIRING, place)


def order(*findings: Finding) -> list[str]:
    return [one.finding.rule for one in causal_order([alert(finding) for finding in findings], explains)]


def test_the_first_onset_is_the_first_cause() -> None:
    early = found(5, rule="early", family="throughput")
    for step, expected in ((7, ["early", "late"]), (6, ["late", "early"])):  # one step apart is together
        assert order(found(step, rule="late", family="nonfinite"), early) == expected


def test_what_is_together_with_the_first_is_not_the_beginning_of_a_chain() -> None:
    assert order(found(7, rule="c", family="nonfinite"), found(6, rule="b"), found(5, rule="a", family="length")) == [
        "b", "a", "c",
    ]  # fmt: skip


def test_a_nan_is_followed_from_the_reward_to_the_gradient() -> None:
    names = ["train/actor_grad_norm", "train/policy_loss", "train/kl", "train/critic_loss", "train/reward"]
    ordered = causal_order([alert(found(metric=name, family="nonfinite")) for name in names], explains)
    assert [one.finding.metric for one in ordered] == [names[index] for index in (4, 2, 3, 1, 0)]


def test_what_began_together_is_in_the_order_of_causes() -> None:
    families = ["throughput", "kl", "unheard of", "nonfinite", "stall", "reward", "data", "checkpoint", "mismatch"]
    assert order(*(found(5, rule=family, family=family) for family in families)) == [
        "nonfinite", "data", "stall", "mismatch", "kl", "reward", "throughput", "checkpoint", "unheard of",
    ]  # fmt: skip


def test_a_rule_comes_before_those_it_explains_unless_they_explain_it_too() -> None:
    assert order(found(5, rule="non_finite", family="nonfinite"), found(5, rule="grad_spike", family="gradient")) == [
        "grad_spike", "non_finite",
    ]  # fmt: skip
    assert order(found(5, rule="egg", family="value"), found(5, rule="hen", family="kl")) == ["hen", "egg"]


def test_what_was_computed_comes_after_its_sources() -> None:
    ordered = causal_order([alert(found(metric="rlhfd/ratio")), alert(found(metric="train/loss"))], explains)
    assert [one.finding.metric for one in ordered] == ["train/loss", "rlhfd/ratio"]


def test_where_one_has_no_step_time_decides() -> None:
    stepless, early, late = found(None, 50.0, rule="b"), found(9, 40.0, rule="a"), found(6, 60.0, rule="c")
    assert order(stepless, early, late) == ["a", "b", "c"]
    assert order(early, late) == ["c", "a"]


def test_a_condition_that_came_back_counts_from_when_it_began_first() -> None:
    back = alert(found(90, rule="back"), Place(10, 0.0, 2, WARNING, 10, 0.0))
    assert causal_order([alert(found(50, rule="between")), back], explains)[0] == back
