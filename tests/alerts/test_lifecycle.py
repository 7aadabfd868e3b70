"""When alerts start and end, and what they remember."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from rlhfd_alerts.alert import Alert, AlertState, Place, Transition
from rlhfd_alerts.codec import alert_from_json, alert_to_json
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_alerts.lifecycle import AlertRule, Lifecycle
from rlhfd_alerts.matchers import parse_matchers
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


SLOW = AlertRule(parse_matchers(["rule=slow"]), for_seconds=60.0, keep_firing_seconds=120.0)


def slow(time: float, active: bool = True, **changes: Any) -> Finding:
    return example_finding(rule="slow", time=time, active=active, **changes)


def kept(lifecycle: Lifecycle, alerts: list[Alert], rows: dict[str, str]) -> Lifecycle:
    """The lifecycle after a kill, from what is stored."""
    rows.update({key: text for key, text in lifecycle.take_changes().items() if text is not None})
    again = Lifecycle([SLOW])
    again.restore(alerts, rows)
    return again


def test_a_condition_must_last_before_it_fires_and_stay_away_before_it_ends() -> None:
    lifecycle = Lifecycle([SLOW])
    assert lifecycle.observe(slow(0.0), 1) is None
    assert [at for _, at in lifecycle.pending] == [60.0]
    assert lifecycle.tick(59.9, 2) == []
    (fired,) = lifecycle.tick(75.0, 2)
    assert (fired.state, fired.time, fired.alert.starts_at, fired.record_id) == (AlertState.FIRING, 60.0, 60.0, 2)
    assert lifecycle.observe(slow(80.0, active=False), 3) is None
    assert lifecycle.observe(slow(150.0), 4) is None, "it came back"
    assert lifecycle.tick(1000.0, 4) == []
    assert lifecycle.observe(slow(1000.0, active=False), 5) is None
    (ended,) = lifecycle.tick(1200.0, 6)
    assert (ended.state, ended.time, ended.alert.ends_at) == (AlertState.RESOLVED, 1120.0, 1120.0)
    assert lifecycle.firing == ()


def test_what_does_not_last_never_fires_and_others_fire_at_once() -> None:
    lifecycle = Lifecycle([SLOW])
    lifecycle.observe(slow(0.0), 1)
    assert lifecycle.observe(slow(30.0, active=False), 2) is None
    assert lifecycle.tick(1000.0, 3) == []
    assert lifecycle.observe(example_finding(), 4) is not None


def test_promise_D10_what_is_pending_or_kept_firing_goes_on_over_a_restart() -> None:
    rows: dict[str, str] = {}
    lifecycle = Lifecycle([SLOW])
    lifecycle.observe(slow(0.0), 1)
    lifecycle = kept(lifecycle, [], rows)
    assert lifecycle.tick(59.0, 2) == []
    (fired,) = lifecycle.tick(61.0, 2)
    assert fired.time == 60.0
    assert [text for text in lifecycle.take_changes().values() if text is not None] == []
    rows.clear()
    lifecycle.observe(slow(100.0, active=False), 3)
    lifecycle = kept(lifecycle, [fired.alert], rows)
    assert [one.time for one in lifecycle.tick(500.0, 4)] == [220.0]


def test_the_worst_severity_while_pending_is_that_of_the_alert() -> None:
    lifecycle = Lifecycle([SLOW])
    lifecycle.observe(slow(0.0, onset_step=5), 1)
    lifecycle.observe(slow(10.0, severity=Severity.CRITICAL, onset_step=9), 2)
    (fired,) = lifecycle.tick(60.0, 3)
    assert (fired.alert.finding.severity, fired.alert.finding.onset_step, fired.time) == (Severity.CRITICAL, 5, 60.0)
