"""Episodes as people see them: what is told of a timeline of findings, across restarts, and what always holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rlhfd_alerts.alert import AlertState, Episode, News, Notification, Transition, fingerprint
from rlhfd_alerts.codec import alert_from_json, alert_to_json
from rlhfd_alerts.content import body, canonical_json
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_alerts.grouping import group
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.testing import example_finding
from rlhfd_daemon import episodes as module
from rlhfd_daemon.analyzers.non_finite import NonFinite
from rlhfd_daemon.config import NonFiniteConfig
from rlhfd_daemon.episodes import Episodes
from rlhfd_daemon.pipeline import Pipeline
from wire import frame

INFO, WARNING, CRITICAL = Severity
NS = 1_700_000_000_000_000_000


def explains(cause: str) -> Collection[str]:
    return {"a": ("b",)}.get(cause, ())


class Timeline:
    """Lifecycle, episodes and grouping, as the daemon has them; ``stored`` is what its outbox holds."""

    def __init__(self) -> None:
        self.lifecycle, self.episodes = Lifecycle(), Episodes(explains)
        self.stored: dict[str, str] = {}
        self.sent: list[Notification] = []
        self.record = 0

    def at(self, step: int, *findings: Finding) -> list[Transition]:
        """One record with these findings, ten seconds a step."""
        self.record += 1
        moved = [replace(one, step=step, time=10.0 * step) for one in findings]
        observed = (self.lifecycle.observe(one, self.record) for one in moved)
        decided = self.episodes.follow([one for one in observed if one is not None])
        self.stored.update({one.alert.fingerprint: alert_to_json(one.alert) for one in decided})
        self.sent += group(decided)
        return decided

    def restart(self) -> None:
        """Everything but what is stored is lost."""
        alerts = sorted(map(alert_from_json, self.stored.values()), key=lambda one: (one.starts_at, one.fingerprint))
        self.lifecycle, self.episodes = Lifecycle(), Episodes(explains)
        self.lifecycle.restore(alerts)
        self.episodes.restore(alerts)

    def told(self) -> list[str]:
        """Every message in a line: state, episode as a number, severity, rule, members."""
        numbers: dict[str, int] = {}
        lines = []
        for one in self.sent:
            assert one.episode is not None
            number = numbers.setdefault(one.episode.id, len(numbers) + 1)
            members = " ".join(member.finding.metric for member in one.episode.members)
            lines.append(f"{one.state.value} {number} {one.severity.value} {one.rule}: {members}")
        return lines


def begins(metric: str = "m", onset: int = 100, **changes: Any) -> Finding:
    given = {"rule": "r", "family": "kl", "metric": metric, "onset_step": onset, "onset_time": 10.0 * onset}
    return example_finding(**{**given, **changes})


def ends(metric: str = "m", **changes: Any) -> Finding:
    return begins(metric, active=False, **changes)


@pytest.fixture
def line() -> Timeline:
    return Timeline()


def test_a_nan_of_300_steps_in_seven_metrics_is_one_episode_and_two_messages() -> None:
    pipeline = Pipeline((NonFinite(NonFiniteConfig()),), Lifecycle())
    sent: list[Notification] = []
    seen: Counter[str] = Counter()
    for step in range(1, 401):
        # One metric after the other becomes NaN from step 61 on; some flicker.
        metrics = {
            f"m{index}": math.nan if 61 + 4 * index <= step < 361 and (index < 4 or step % 9) else 1.0
            for index in range(7)
        }
        decided = pipeline.observe(frame(step, metrics=metrics, step=step), NS + step * 10**9, step)
        seen.update(one.alert.finding.episode for one in decided if one.state is AlertState.FIRING)
        sent += group(decided)
    assert list(seen.values()) == [7]
    assert [one.state for one in sent] == [AlertState.FIRING, AlertState.RESOLVED]
    opened, over = sent
    assert opened.episode is not None
    assert over.episode is not None
    assert opened.id != over.id
    assert [one.finding.metric for one in over.episode.members] == [f"m{index}" for index in range(7)]
    assert (over.episode.cause.finding.metric, over.episode.cause.finding.onset_step) == ("m0", 61)
    assert (over.episode.opened_step, over.episode.ended_step, over.episode.confidence) == (61, 365, 0.97)
    assert pipeline.episodes.open == ()


def test_a_timeline_is_told_like_this(line: Timeline) -> None:
    line.at(102, begins("kl"))
    line.at(110, begins("reward", 105, rule="q", family="reward"))  # near
    line.at(120, begins("loss", 119, severity=CRITICAL, family="nonfinite"))  # near and worse
    line.at(130, ends("kl"), begins("far", 900, family="length", rule="z"))  # an onset far away is another cause
    line.at(131, ends("loss", family="nonfinite"))
    line.at(140, ends("reward", rule="q"))
    line.at(150, begins("kl", 148))  # back again
    line.at(160, ends("kl"), ends("far", rule="z"))
    line.at(500, begins("kl", 499))  # long after
    assert line.told() == [
        "firing 1 warning r: kl",
        "firing 1 critical r: kl reward loss",
        "firing 2 warning z: far",
        "resolved 1 critical r: kl reward loss",
        "firing 1 warning r: kl reward loss",
        "resolved 1 warning r: kl reward loss",
        "resolved 2 warning z: far",
        "firing 3 warning r: kl",
    ]
    assert len({one.id for one in line.sent}) == len(line.sent)


def test_who_joins_has_the_episode_s_id_and_is_in_its_last_message(line: Timeline) -> None:
    (first,) = line.at(100, begins("a"))
    (second,) = line.at(101, begins("b", labels=(("role", "critic"), ("rank", "3"))))
    assert first.alert.finding.episode == second.alert.finding.episode != ""
    assert len(line.sent) == 1
    line.at(110, ends("a"))
    assert len(line.sent) == 1, "b is still wrong"
    line.at(111, ends("b", labels=(("role", "critic"), ("rank", "3"))))
    told: Any = body(line.sent[-1])["data"]
    assert [(one["metric"], one["state"], one["ended_step"]) for one in told["episode"]["members"]] == [
        ("a", "resolved", 110), ("b", "resolved", 111),
    ]  # fmt: skip
    assert (told["episode"]["roles"], told["episode"]["ranks"]) == (["actor", "critic"], ["0", "3"])
    assert [one["metric"] for one in told["alerts"]] == ["b"]


def test_opening_again_counts_and_keeps_the_first_onset(line: Timeline) -> None:
    for step in (100, 120, 140):
        line.at(step, begins("m", step, severity=CRITICAL if step == 100 else WARNING))
        line.at(step + 5, ends("m"))
    assert [one.episode and one.episode.opening for one in line.sent] == [1, 1, 2, 2, 3, 3]
    assert len({one.episode and one.episode.id for one in line.sent}) == 1
    last: Any = body(line.sent[-2])["data"]
    assert (last["severity"], last["alerts"][0]["onset_step"], last["step"]) == ("warning", 140, 140)
    assert last["episode"]["cause"]["onset_step"] == 100
    assert (last["episode"]["opened_step"], last["episode"]["ended_step"]) == (100, None)


def test_one_alert_that_becomes_worse_raises_its_episode_once(line: Timeline) -> None:
    line.at(100, begins(), begins("b"))
    line.at(101, begins(severity=CRITICAL))
    line.at(102, begins("b", severity=CRITICAL))
    line.at(103, begins("c", severity=CRITICAL))
    assert line.told() == ["firing 1 warning r: b m", "firing 1 critical r: b m"]


def test_information_is_told_to_nobody_until_it_is_more(line: Timeline) -> None:
    (hint,) = line.at(100, begins(severity=INFO))
    line.at(105, begins("other", 104))
    assert line.told() == ["firing 1 warning r: other"]
    (worse,) = line.at(200, begins(severity=CRITICAL))
    assert worse.alert.finding.episode == hint.alert.finding.episode
    line.at(201, ends())
    assert line.told()[1:] == ["firing 2 critical r: m", "resolved 2 critical r: m"]


def test_information_alone_ends_without_a_word_and_does_not_hold_an_episode_open(line: Timeline) -> None:
    line.at(10, begins("alone", 10, severity=INFO))
    line.at(20, ends("alone"))
    assert line.sent == []
    line.at(100, begins("bad"))
    (hint,) = line.at(101, begins("hint", severity=INFO))
    line.at(110, ends("bad"))
    assert line.told() == ["firing 1 warning r: bad", "resolved 1 warning r: bad hint"]
    assert line.episodes.open == ()
    (over,) = line.at(300, ends("hint"))
    assert over.alert.finding.episode == hint.alert.finding.episode
    assert len(line.sent) == 2


def test_what_begins_and_ends_in_one_record_is_told_and_over(line: Timeline) -> None:
    line.at(100, begins(), ends())
    assert line.told() == ["firing 1 warning r: m", "resolved 1 warning r: m"]
    line.at(101, begins(severity=INFO), ends())
    assert len(line.sent) == 2


def test_what_ends_and_is_back_in_one_record_is_not_told(line: Timeline) -> None:
    line.at(100, begins())
    line.at(110, ends(), begins("m", 110))
    assert line.told() == ["firing 1 warning r: m"]
    (episode,) = line.episodes.open
    assert (episode.opening, episode.firing) == (2, 1)


def test_a_rule_that_explains_another_ties_them(line: Timeline) -> None:
    line.at(100, begins("x", rule="a"))
    line.at(300, begins("y", 300, rule="b", family="length"))
    line.at(500, begins("z", 500, rule="a", family="value", severity=INFO))
    (episode,) = line.episodes.open
    assert [one.finding.metric for one in episode.members] == ["x", "y", "z"]


@pytest.mark.parametrize("field", ["run", "boot"])
def test_runs_and_launches_share_no_episode(line: Timeline, field: str) -> None:
    line.at(100, begins(), replace(begins(), **{field: "other"}))  # type: ignore[arg-type]
    assert len({one.id for one in line.episodes.open}) == 2
    assert len(line.sent) == 2


def test_an_alert_from_before_there_were_episodes_ends_by_itself(line: Timeline) -> None:
    old = Lifecycle()
    old.observe(begins(), 1)
    line.lifecycle.restore(old.firing)
    line.episodes.restore(old.firing)
    (over,) = line.at(110, ends())
    assert (over.episode, over.alert.finding.episode) == (None, "")
    assert [one.rule for one in line.sent] == ["r"]


def test_an_id_is_the_same_in_every_process_and_version(line: Timeline) -> None:
    (first,) = line.at(100, begins())
    assert first.alert.finding.episode == "ep_498a142e994ba23e"


def test_members_beyond_those_shown_are_counted(line: Timeline) -> None:
    count = module.MAX_MEMBERS + 10
    names = [f"m{index:03}" for index in range(count)]
    line.at(100, *(begins(name, severity=INFO if name == "m000" else WARNING) for name in reversed(names)))
    (episode,) = line.episodes.open
    shown = [one.finding.metric for one in episode.members]
    assert len(shown) == module.MAX_MEMBERS
    assert "m000" not in shown, "information goes first"
    assert (episode.more, episode.firing) == (10, count)
    line.at(101, *(ends(name) for name in names[:-1]))
    assert [one.firing for one in line.episodes.open] == [1]
    line.at(102, ends(names[-1]))
    assert [one.state.value for one in line.sent] == ["firing", "resolved"]


def test_there_is_always_room_for_a_new_episode(line: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EPISODES", 3)
    for step, run in enumerate(("one", "two", "three"), 100):
        line.at(step, begins(run=run))
    line.at(103, ends(run="two"))
    line.at(104, begins(run="four"))
    assert runs(line) == ["one", "three", "four"], "what is over is forgotten first"
    line.at(105, begins("more", run="one"), begins(run="five"))
    assert runs(line) == ["one", "four", "five"], "then what was heard of longest ago"
    (over,) = line.at(106, ends(run="three"))
    assert over.episode is None, "its end is told by itself"
    assert [one.rule for one in line.sent][-1] == "r"
    monkeypatch.setattr(module, "MAX_EPISODES", 2)
    line.restart()
    assert runs(line) == ["one", "five"]


def runs(line: Timeline) -> list[str]:
    """Of the open episodes, oldest first."""
    return [one.cause.finding.run for one in line.episodes.open]


def test_too_many_alerts_of_one_run_are_told_one_by_one_and_those_of_old_runs_make_room(
    line: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FIRING", 2)
    decided = line.at(100, begins("a"), begins("b"), begins("c"))
    assert [one.episode is None for one in decided] == [False, False, True]
    assert line.episodes.unplaced_total == 1
    (over,) = line.at(101, ends("c"))
    assert (over.state, over.episode) == (AlertState.RESOLVED, None)
    (new,) = line.at(102, begins(run="new"))
    assert new.episode is not None
    assert runs(line) == ["new"]


def test_a_storm_of_alerts_is_one_episode(line: Timeline) -> None:
    decided = line.at(200, *(begins(f"m{index}", onset=index % 200) for index in range(2000)))
    assert len({one.alert.finding.episode for one in decided}) == 1
    assert len(line.sent) == 1


OTHER: dict[str, Any] = {"family": "length", "rule": "z"}
SCRIPTS: dict[str, list[tuple[int, list[Finding]]]] = {
    "the worst of an opening, although its alert was back with less": [
        (100, [begins("b")]),
        (101, [begins("a", severity=CRITICAL)]),
        (102, [ends("a")]),
        (103, [begins("a")]),
        (104, [begins("c", severity=CRITICAL)]),
    ],
    "the first onset of what was back": [
        (100, [begins("a")]),
        (141, [begins("b", 140)]),
        (142, [ends("a")]),
        (150, [begins("a", 150)]),
        (400, [begins("c", 75, severity=CRITICAL, **OTHER)]),
    ],
    "when the last alert ended": [
        (100, [begins("a")]),
        (101, [begins("b", 101)]),
        (110, [ends("b")]),
        (300, [ends("a")]),
        (340, [begins("a", 340)]),
    ],
    "which opening it is": [
        (100, [begins("a", severity=CRITICAL)]),
        (110, [ends("a")]),
        (120, [begins("b", 120)]),
        (121, [begins("c", 121, severity=CRITICAL)]),
        (130, [ends("b"), ends("c")]),
        (140, [begins("a", 140)]),
    ],
    "what information lingers": [
        (100, [begins("a"), begins("b", severity=INFO)]),
        (110, [ends("a")]),
        (400, [begins("b", severity=WARNING)]),
    ],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_restart_remembers(name: str) -> None:
    straight, restarted = Timeline(), Timeline()
    for step, findings in SCRIPTS[name]:
        straight.at(step, *findings)
        restarted.at(step, *findings)
        restarted.restart()
        assert restarted.episodes.open == straight.episodes.open
    assert [canonical_json(body(one)) for one in restarted.sent] == [canonical_json(body(one)) for one in straight.sent]
    assert len(straight.sent) > 1


SEVERITIES = st.sampled_from(Severity)
KINDS = st.sampled_from([("a", "kl"), ("b", "length"), ("c", "system"), ("d", "kl"), ("e", "nonfinite")])
FINDINGS = st.builds(
    lambda kind, metric, rank, severity, active, delay, has_step, run: example_finding(
        rule=kind[0], family=kind[1], metric=metric, labels=(("rank", rank),), severity=severity, active=active,
        baseline=None, onset_step=delay if has_step else None, run=run,
    ),
    KINDS, st.sampled_from("xyz"), st.sampled_from("01"), SEVERITIES, st.booleans(),
    st.integers(0, 60), st.sampled_from([True, True, True, False]), st.sampled_from(["r", "r", "r", "s"]),
)  # fmt: skip
RECORDS = st.lists(st.tuples(st.integers(-5, 80), st.lists(FINDINGS, max_size=3), st.booleans()), max_size=30)


def dated(finding: Finding, step: int) -> Finding:
    """``onset_step`` was generated as the steps before ``step``."""
    if finding.onset_step is None:
        return replace(finding, onset_time=10.0 * step)
    onset = max(0, step - finding.onset_step)
    return replace(finding, onset_step=onset, onset_time=10.0 * onset)


@settings(max_examples=150, deadline=None)
@given(RECORDS)
def test_a_restart_anywhere_changes_no_message(records: list[tuple[int, list[Finding], bool]]) -> None:
    straight, restarted = Timeline(), Timeline()
    step = 100
    for ahead, findings, restarts in records:
        step = max(0, step + ahead)
        given_ = [dated(one, step) for one in findings]
        straight.at(step, *given_)
        restarted.at(step, *given_)
        if restarts:
            restarted.restart()
        assert restarted.stored == straight.stored
        assert restarted.episodes.open == straight.episodes.open
    bodies = [[(one.id, canonical_json(body(one))) for one in line.sent] for line in (straight, restarted)]
    assert bodies[0] == bodies[1]


class Life(RuleBasedStateMachine):
    """Any findings in any order: what is told of each episode is a firing first and then in turns."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Timeline()
        self.step = 100
        self.decided: list[Transition] = []

    @rule(findings=st.lists(FINDINGS, min_size=1, max_size=6), ahead=st.integers(0, 70))
    def happen(self, findings: Sequence[Finding], ahead: int) -> None:
        self.step += ahead
        self.decided += self.line.at(self.step, *(dated(one, self.step) for one in findings))

    @rule()
    def end_all(self) -> None:
        firing = [replace(one.finding, active=False) for one in self.line.lifecycle.firing]
        self.decided += self.line.at(self.step, *firing)
        assert self.line.episodes.open == ()

    @rule()
    def restart(self) -> None:
        self.line.restart()

    @invariant()
    def every_firing_alert_is_in_one_episode(self) -> None:
        firing = {one.fingerprint: one for one in self.line.lifecycle.firing}
        placed = {key: self.line.episodes.of(key) for key in firing}
        assert all(placed.values())
        opened = {one.id: one for one in self.line.episodes.open}
        for key, alert in firing.items():
            if alert.finding.severity is not INFO:
                assert placed[key] in opened
        assert sum(one.firing for one in opened.values()) <= len(firing)
        assert all(one.firing and 0 <= one.confidence <= 1 for one in opened.values())

    @invariant()
    def every_transition_has_an_episode_that_has_it(self) -> None:
        for one in self.decided:
            assert one.episode is not None
            assert one.alert.finding.episode == one.episode.id
            assert any(member.fingerprint == one.alert.fingerprint for member in one.episode.members)
            assert one.alert.fingerprint == fingerprint(one.alert.finding)
        self.decided.clear()

    @invariant()
    def messages_of_an_episode_take_turns(self) -> None:
        seen: dict[str, Episode] = {}
        for one in self.line.sent:
            assert one.episode is not None
            before = seen.get(one.episode.id)
            news = News.RESOLVED if one.state is AlertState.RESOLVED else one.episode.news[0]
            assert one.severity is not INFO
            if news is News.RESOLVED:
                assert before is not None
                assert told(before) is not News.RESOLVED
            elif news is News.RAISED:
                assert before is not None
                assert told(before) is not News.RESOLVED
                assert one.severity.rank > before.severity.rank
            else:
                assert before is None or told(before) is News.RESOLVED
            seen[one.episode.id] = replace(one.episode, news=(news,))
        assert len({one.id for one in self.line.sent}) == len(self.line.sent)


def told(episode: Episode) -> News:
    return episode.news[0]


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
