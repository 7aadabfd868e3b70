"""When alerts start and end, and what they remember."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rlhfd_alerts.alert import AlertState, Place, Transition
from rlhfd_alerts.codec import alert_from_json, alert_to_json
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.testing import example_finding

FIRING, RESOLVED = AlertState.FIRING, AlertState.RESOLVED


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([True], [FIRING]),
        ([False], [None]),
        ([True, True, True], [FIRING, None, None]),
        ([True, False], [FIRING, RESOLVED]),
        ([True, False, False], [FIRING, RESOLVED, None]),
        ([True, False, True], [FIRING, RESOLVED, FIRING]),
    ],
)
def test_only_changes_of_a_condition_are_transitions(conditions: list[bool], expected: list[AlertState | None]) -> None:
    lifecycle = Lifecycle()
    seen = [lifecycle.observe(example_finding(active=active), record_id=7) for active in conditions]
    assert [transition and transition.state for transition in seen] == expected


def test_an_alert_keeps_the_finding_that_started_it_and_the_last_value() -> None:
    lifecycle = Lifecycle()
    first = example_finding(step=10, value=1.0, time=100.0)
    lifecycle.observe(first, 1)
    lifecycle.observe(example_finding(step=11, value=2.0, time=110.0), 2)
    assert [(a.last_step, a.last_value) for a in lifecycle.firing] == [(11, 2.0)]
    resolved = lifecycle.observe(example_finding(step=12, value=0.5, time=120.0, active=False), 3)
    assert resolved is not None
    assert (resolved.record_id, resolved.time) == (3, 120.0)
    alert = resolved.alert
    assert (alert.finding, alert.starts_at, alert.ends_at) == (first, 100.0, 120.0)
    assert (alert.last_step, alert.last_value, alert.state) == (12, 0.5, RESOLVED)
    assert lifecycle.firing == ()


@pytest.mark.parametrize("field", ["run", "boot", "rule", "metric"])
def test_run_boot_rule_and_metric_tell_alerts_apart(field: str) -> None:
    lifecycle = Lifecycle()
    first = lifecycle.observe(example_finding(), 1)
    other = lifecycle.observe(example_finding(**{field: "other"}), 1)
    assert first is not None
    assert other is not None
    assert first.alert.fingerprint != other.alert.fingerprint


def test_two_ranks_with_the_same_metric_are_two_alerts() -> None:
    lifecycle = Lifecycle()
    lifecycle.observe(example_finding(labels=(("rank", "2"),)), 1)
    assert lifecycle.observe(example_finding(labels=(("rank", "3"),)), 2) is not None
    assert lifecycle.observe(example_finding(labels=(("rank", "2"),)), 3) is None


def test_a_restored_lifecycle_does_not_fire_again_but_resolves() -> None:
    before = Lifecycle()
    fired = before.observe(example_finding(), 1)
    gone = before.observe(example_finding(metric="gone"), 1)
    assert isinstance(fired, Transition)
    assert isinstance(gone, Transition)
    after = Lifecycle()
    after.restore([fired.alert, replace(gone.alert, state=RESOLVED)])
    assert after.observe(example_finding(), 2) is None
    again = after.observe(example_finding(metric="gone"), 2)
    assert again is not None
    assert again.state is FIRING
    resolved = after.observe(example_finding(active=False), 3)
    assert resolved is not None
    assert resolved.state is RESOLVED


@pytest.mark.parametrize("place", [None, Place(7, 100.5, 2, Severity.CRITICAL, None, 99.0)])
def test_a_stored_alert_reads_back_equal(place: Place | None) -> None:
    lifecycle = Lifecycle()
    fired = lifecycle.observe(example_finding(value=float("inf"), step=None, baseline=None, episode="ep_1"), 1)
    assert fired is not None
    alert = replace(fired.alert, place=place)
    assert alert_from_json(alert_to_json(alert)) == alert


def test_an_alert_stored_before_there_were_episodes_is_read() -> None:
    fired = Lifecycle().observe(example_finding(), 1)
    assert fired is not None
    fields = json.loads(alert_to_json(fired.alert))
    del fields["place"], fields["finding"]["episode"]
    assert alert_from_json(json.dumps(fields)) == fired.alert


@pytest.mark.parametrize(
    ("severities", "states"),
    [
        ((Severity.WARNING, Severity.CRITICAL), [FIRING, FIRING]),
        ((Severity.WARNING, Severity.WARNING, Severity.CRITICAL), [FIRING, None, FIRING]),
        ((Severity.CRITICAL, Severity.WARNING, Severity.CRITICAL), [FIRING, None, None]),
        ((Severity.INFO, Severity.WARNING, Severity.CRITICAL, Severity.INFO), [FIRING, FIRING, FIRING, None]),
    ],
)
def test_only_a_higher_severity_fires_again(severities: tuple[Severity, ...], states: list[AlertState | None]) -> None:
    lifecycle = Lifecycle()
    seen = [lifecycle.observe(example_finding(severity=severity), 1) for severity in severities]
    assert [transition and transition.state for transition in seen] == states


def test_an_alert_that_became_worse_says_so_and_keeps_when_it_began() -> None:
    lifecycle = Lifecycle()
    lifecycle.observe(example_finding(onset_step=10, onset_time=90.0, time=100.0), 1)
    worse = example_finding(severity=Severity.CRITICAL, summary="worse", step=150, onset_step=140, time=200.0)
    raised = lifecycle.observe(worse, 2)
    assert raised is not None
    alert = raised.alert
    assert (alert.finding.summary, alert.finding.severity, alert.last_step) == ("worse", Severity.CRITICAL, 150)
    assert (alert.finding.onset_step, alert.finding.onset_time, alert.starts_at) == (10, 90.0, 100.0)
    assert lifecycle.firing == (alert,)
    resolved = lifecycle.observe(example_finding(active=False), 3)
    assert resolved is not None
    assert resolved.alert.finding.severity is Severity.CRITICAL


@pytest.mark.parametrize("text", ["", "[]", "{}", "1", '{"finding":{}}', '{"finding":null,"state":"firing"}'])
def test_what_is_not_an_alert_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        alert_from_json(text)
