"""Which actions are due: once for each opening of an episode, also when it is decided again."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from rlhfd_alerts.alert import Transition
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.testing import example_finding
from rlhfd_daemon.actions.decide import MAX_ACTS, Decisions
from rlhfd_daemon.config_actions import ActionConfig, CheckpointAction, StopAction
from rlhfd_daemon.episodes import Episodes

NOW = 1.7e9


class Alerts:
    """Findings through lifecycle and episodes, as records have them."""

    def __init__(self) -> None:
        self.lifecycle, self.episodes, self.record = Lifecycle(), Episodes(), 0

    def find(self, metric: str = "train/loss", **changes: object) -> list[Transition]:
        self.record += 1
        changes = {"severity": Severity.CRITICAL, "value": math.nan, "step": self.record, **changes}
        found = self.lifecycle.observe(example_finding(metric=metric, time=NOW + self.record, **changes), self.record)
        return self.episodes.follow([found]) if found is not None else []


def decisions(*actions: ActionConfig) -> Decisions:
    made = Decisions("node-1")
    made.configure(actions)  # type: ignore[arg-type]
    return made


def heard(_labels: Mapping[str, str]) -> bool:
    return False


def test_a_critical_alert_makes_each_action_due_that_it_matches() -> None:
    made, alerts = decisions(StopAction(), CheckpointAction(matchers=('rule="another"',))), Alerts()
    made.observe(alerts.find(), NOW, heard)
    (act,) = made.acts.values()
    assert (act.name, act.type, act.state, act.dry_run, act.decided_at) == ("stop", "stop", "decided", False, NOW)
    assert act.episode == alerts.episodes.open[0].id


def test_a_warning_and_information_lead_to_nothing_by_default() -> None:
    made, alerts = decisions(StopAction()), Alerts()
    made.observe(alerts.find(severity=Severity.WARNING), NOW, heard)
    everything = decisions(StopAction(matchers=()))
    everything.observe(Alerts().find(severity=Severity.INFO), NOW, heard)
    assert made.acts == everything.acts == {}
    made.observe(alerts.find("train/kl"), NOW, heard)
    assert len(made.acts) == 1, "the episode has got critical"


def test_more_alerts_of_the_episode_make_nothing_due_again_but_another_opening_does() -> None:
    made, alerts = decisions(StopAction()), Alerts()
    for metric in ("train/loss", "train/kl", "train/reward"):
        made.observe(alerts.find(metric), NOW, heard)
    assert len(made.acts) == 1
    for metric in ("train/loss", "train/kl", "train/reward"):
        made.observe(alerts.find(metric, active=False), NOW, heard)
    made.observe(alerts.find(), NOW, heard)
    assert sorted(act.opening for act in made.acts.values()) == [1, 2]
    assert len({act.episode for act in made.acts.values()}) == 1


def test_what_is_silenced_leads_to_nothing_and_the_labels_are_those_of_matchers() -> None:
    made, asked = decisions(StopAction()), []

    def silenced(labels: Mapping[str, str]) -> bool:
        asked.append(labels)
        return labels["run"] == "run-1"

    made.observe(Alerts().find(run="run-1"), NOW, silenced)
    assert made.acts == {}
    assert asked[0]["severity"] == "critical"
    assert asked[0]["host"] == "node-1"
    assert asked[0]["episode"].startswith("ep_")


def test_alerts_about_actions_lead_to_no_action() -> None:
    made = decisions(StopAction(matchers=()))
    made.observe(Alerts().find(rule="action_failed", family="action"), NOW, heard)
    assert made.acts == {}


def test_without_actions_nothing_is_due_and_nothing_stored() -> None:
    made = decisions()
    made.observe(Alerts().find(), NOW, heard)
    assert made.take_changes() == {}


def test_what_was_stored_is_not_due_again_and_what_is_unreadable_is_passed_over() -> None:
    made, alerts = decisions(StopAction()), Alerts()
    transitions = alerts.find()
    made.observe(transitions, NOW, heard)
    rows = {key: text for key, text in made.take_changes().items() if text is not None}
    again = decisions(StopAction())
    again.restore({**rows, "action\x1fx": "{", "group\x1fx": "{}"})
    again.observe(transitions, NOW + 5, heard)
    assert again.acts == made.acts
    assert again.found_undone == set(made.acts)
    assert again.take_changes() == {}


def test_acts_that_are_over_are_forgotten_oldest_first() -> None:
    made = decisions(StopAction())
    made.observe(Alerts().find(), NOW, heard)
    (act,) = made.acts.values()
    for number in range(MAX_ACTS + 9):
        made.put(type(act)(**{**{f: getattr(act, f) for f in act.__struct_fields__}, "id": f"act_{number}",
                              "state": "over", "decided_at": NOW + number}))  # fmt: skip
    rows = made.take_changes()
    assert len(made.acts) == MAX_ACTS
    assert act.id in made.acts, "it is not over"
    assert [key for key, text in rows.items() if text is None] == [f"action\x1fact_{number}" for number in range(10)]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), max_size=40), st.data())
def test_however_alerts_come_and_go_there_is_at_most_one_act_an_opening_also_over_restarts(
    course: list[tuple[str, bool]], data: st.DataObject
) -> None:
    made, alerts, seen = decisions(StopAction()), Alerts(), []
    stored: dict[str, str] = {}
    for metric, active in course:
        transitions = alerts.find(metric, active=active)
        before = set(made.acts)
        made.observe(transitions, NOW, heard)
        seen += [(act.episode, act.opening) for id_, act in made.acts.items() if id_ not in before]
        stored |= {key: text for key, text in made.take_changes().items() if text is not None}
        if data.draw(st.booleans()):
            made = decisions(StopAction())
            made.restore(stored)
    assert len(seen) == len(set(seen))
    assert bool(seen) == any(active for _, active in course)
