"""Which alerts others keep from being told."""

from __future__ import annotations

import pytest

from rlhfd_alerts.inhibition import DEAD_PROCESS, Inhibition, InhibitRule
from rlhfd_alerts.matchers import parse_matchers

DEATH = {"run": "r", "boot": "b", "rule": "actor_death", "family": "system"}
KL = {"run": "r", "boot": "b", "rule": "kl_runaway", "family": "kl"}


@pytest.mark.parametrize("rule", ["actor_death", "heartbeat_lost", "oom_kill", "gpu_lost"])
def test_metrics_of_a_run_are_not_told_of_while_a_process_of_it_is_dead(rule: str) -> None:
    inhibition = Inhibition([DEAD_PROCESS])
    assert inhibition.inhibiting(KL) is None
    inhibition.fires("dead", {**DEATH, "rule": rule})
    assert inhibition.inhibiting(KL) == "dead"
    inhibition.ends("dead")
    assert inhibition.inhibiting(KL) is None


@pytest.mark.parametrize(
    "labels",
    [
        {**KL, "run": "other"},
        {**KL, "boot": "next"},
        {**KL, "family": "stall", "rule": "stalled_phase"},
        {**KL, "family": "checkpoint"},
        {**KL, "family": "reward", "rule": "reward_failed"},
        DEATH,
    ],
)
def test_other_launches_and_what_is_no_metric_are_told(labels: dict[str, str]) -> None:
    inhibition = Inhibition([DEAD_PROCESS])
    inhibition.fires("dead", DEATH)
    assert inhibition.inhibiting(labels) is None


def test_an_alert_that_meets_both_sides_is_inhibited_only_by_one_that_does_not() -> None:
    severity = InhibitRule(parse_matchers(['severity=~"critical|warning"']), parse_matchers(['run="r"']), ())
    both, source = {"severity": "warning", "run": "r"}, {"severity": "critical", "run": "x"}
    inhibition = Inhibition([severity])
    inhibition.fires("a", both)
    inhibition.fires("b", both)
    assert inhibition.inhibiting(both) is None
    inhibition.fires("c", source)
    assert inhibition.inhibiting(both) == "c"


def test_a_label_that_both_lack_is_equal() -> None:
    inhibition = Inhibition([InhibitRule(parse_matchers(["a=1"]), parse_matchers(["b=1"]), ("host",))])
    inhibition.fires("s", {"a": "1"})
    assert inhibition.inhibiting({"b": "1"}) == "s"
    assert inhibition.inhibiting({"b": "1", "host": "n"}) is None


def test_an_alert_whose_labels_change_inhibits_by_its_new_ones_only() -> None:
    inhibition = Inhibition([DEAD_PROCESS])
    inhibition.fires("dead", DEATH)
    inhibition.fires("dead", {**DEATH, "boot": "next"})
    assert inhibition.inhibiting(KL) is None
    assert inhibition.inhibiting({**KL, "boot": "next"}) == "dead"
    inhibition.ends("dead")
    inhibition.ends("unknown")
    assert inhibition.inhibiting({**KL, "boot": "next"}) is None
