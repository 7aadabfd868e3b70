"""The body: golden bytes, valid JSON whatever the numbers, sparklines."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_alerts.alert import AlertState, Episode, News, Notification, Transition
from rlhfd_alerts.canonical import timestamp
from rlhfd_alerts.content import body, canonical_json, sparkline
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.grouping import group
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.testing import example_finding

GOLDEN = (
    '{"data":{"alerts":[{"baseline":0.05,"ends_at":null,"evidence":[[112,0.05],[116,0.2],[120,0.75]],'
    '"family":"policy","fingerprint":"b47c447645d57fc2","labels":{"rank":"0","role":"actor"},"metric":"train/kl",'
    '"onset_step":112,"onset_time":"2023-11-14T22:11:40.000Z","rule":"kl_runaway","severity":"warning",'
    '"sparkline":"▁▂█","starts_at":"2023-11-14T22:13:20.000Z","step":120,'
    '"summary":"train/kl is 15 times its baseline","value":0.75}],'
    '"boot":"boot-1","episode":null,"family":"policy","remedy":"raise the KL coefficient","rule":"kl_runaway",'
    '"rule_url":"docs/rules.md#kl_runaway","run":"example",'
    '"severity":"warning","state":"firing","step":120,"summary":"train/kl is 15 times its baseline"},'
    '"timestamp":"2023-11-14T22:13:20.000Z","type":"alert.firing"}'
)
MEMBER = {
    "fingerprint": "b47c447645d57fc2",
    "rule": "kl_runaway",
    "metric": "train/kl",
    "family": "policy",
    "severity": "warning",
    "state": "firing",
    "onset_step": 112,
    "onset_time": "2023-11-14T22:11:40.000Z",
    "ended_step": None,
    "values": {"before": None, "at": 0.05, "after": 0.75},
    "baseline": 0.05,
    "sparkline": "▁▂█",
    "labels": {"role": "actor", "rank": "0"},
}


def notification(*findings: Any, record_id: int = 1) -> Notification:
    lifecycle = Lifecycle()
    transitions = [lifecycle.observe(finding, record_id) for finding in findings]
    return group([t for t in transitions if t is not None])[-1]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_the_body_is_these_bytes() -> None:
    assert canonical_json(body(notification(example_finding()))).decode() == GOLDEN


def test_a_resolved_body_tells_both_times_and_the_value_at_the_end() -> None:
    content = body(
        notification(example_finding(), example_finding(active=False, value=0.06, step=150, time=1.7e9 + 60))
    )
    assert content["type"] == "alert.resolved"
    data: Any = content["data"]
    assert (data["state"], data["step"]) == ("resolved", 150)
    (alert,) = data["alerts"]
    assert (alert["starts_at"], alert["ends_at"]) == ("2023-11-14T22:13:20.000Z", "2023-11-14T22:14:20.000Z")
    assert alert["value"] == 0.06
    assert content["timestamp"] == alert["ends_at"]


def test_several_alerts_are_summed_up_by_the_first_of_the_worst() -> None:
    data: Any = body(notification(example_finding(metric="a", summary="one"), example_finding(metric="b")))["data"]
    assert data["summary"] == "one (and 1 more)"
    assert [alert["metric"] for alert in data["alerts"]] == ["a", "b"]


def in_episode(news: News, *findings: Any, told: int = 1) -> Notification:
    """A message about the first ``told`` of the findings, all of which are in one episode."""
    decided = [Lifecycle().observe(finding, 1) for finding in findings]
    transitions = [t for t in decided if t is not None]
    episode = Episode(
        id="ep_1", state=news.state, severity=Severity.CRITICAL, opening=2, opened_step=120, opened_time=1.7e9,
        ended_step=150 if news is News.RESOLVED else None, ended_time=1.7e9 + 60 if news is News.RESOLVED else None,
        members=tuple(t.alert for t in transitions), more=3, firing=4, confidence=0.75, news=(news,),
    )  # fmt: skip
    sent: list[Transition] = [replace(t, state=news.state, episode=episode) for t in transitions[:told]]
    (one,) = group(sent)
    return one


def test_an_episode_tells_cause_members_who_and_how_sure() -> None:
    other = example_finding(metric="train/reward", rule="drop", labels=(("role", "critic"), ("rank", "10")))
    told: Any = body(in_episode(News.OPENED, example_finding(), other))["data"]
    assert canonical_json(told)  # JSON can hold it
    episode = told["episode"]
    members = episode.pop("members")
    assert members[0] == MEMBER
    assert [member["metric"] for member in members] == ["train/kl", "train/reward"]
    assert episode == {
        "id": "ep_1", "state": "firing", "severity": "critical", "opening": 2, "opened_step": 120,
        "opened_at": "2023-11-14T22:13:20.000Z", "ended_step": None, "ended_at": None, "confidence": 0.75,
        "firing": 4, "more": 3, "roles": ["actor", "critic"], "ranks": ["0", "10"],
        "cause": {
            "fingerprint": "b47c447645d57fc2", "rule": "kl_runaway", "rule_url": "docs/rules.md#kl_runaway",
            "metric": "train/kl", "family": "policy", "onset_step": 112,
            "summary": "train/kl is 15 times its baseline", "remedy": "raise the KL coefficient",
        },
    }  # fmt: skip
    assert told["summary"] == "train/kl is 15 times its baseline (and 4 more)"
    assert told["severity"] == "critical"


def test_a_message_is_headed_by_the_cause_when_it_opens_or_is_over_and_else_by_what_is_new() -> None:
    info = example_finding(rule="hint", severity=Severity.INFO)
    cause, worse = example_finding(rule="first"), example_finding(rule="later", severity=Severity.CRITICAL)
    assert in_episode(News.OPENED, info, cause, worse, told=3).rule == "first"
    assert in_episode(News.RESOLVED, cause, worse).rule == "first"
    resolved = in_episode(News.RESOLVED, worse, cause)
    assert resolved.rule == "later"
    raised = in_episode(News.RAISED, worse, cause)
    assert raised.episode is not None
    new = replace(raised, episode=replace(raised.episode, members=raised.episode.members[1:]))
    assert (new.rule, new.episode and new.episode.cause.finding.rule) == ("later", "first")
    over: Any = body(resolved)["data"]
    assert (over["state"], over["episode"]["ended_step"]) == (AlertState.RESOLVED.value, 150)
    assert over["episode"]["ended_at"] == "2023-11-14T22:14:20.000Z"


@pytest.mark.parametrize(
    ("onset", "evidence", "expected"),
    [
        (3, ((1, 1.0), (2, 2.0), (3, 9.0), (4, 8.0)), {"before": 2.0, "at": 9.0, "after": 8.0}),
        (3, ((2, 2.0), (3, math.nan)), {"before": 2.0, "at": "NaN", "after": None}),
        (9, ((2, 2.0),), {"before": 2.0, "at": 0.75, "after": None}),
        (None, ((None, 2.0), (None, 3.0)), {"before": None, "at": 0.75, "after": None}),
        (3, (), {"before": None, "at": 0.75, "after": None}),
    ],
)
def test_a_member_tells_the_values_before_at_and_after_its_onset(
    onset: int | None, evidence: tuple[tuple[int | None, float], ...], expected: dict[str, object]
) -> None:
    told: Any = body(in_episode(News.OPENED, example_finding(onset_step=onset, evidence=evidence)))["data"]
    assert told["episode"]["members"][0]["values"] == expected


@given(st.floats(), st.floats() | st.none(), st.lists(st.tuples(st.none() | st.integers(), st.floats())), st.text())
def test_any_numbers_and_text_make_valid_json(
    time: float, value: float | None, evidence: list[tuple[int | None, float]], text: str
) -> None:
    finding = example_finding(
        time=time, onset_time=time, value=value, baseline=value, evidence=tuple(evidence), summary=text, run=text
    )
    content = canonical_json(body(notification(finding)))
    parsed = json.loads(content, parse_constant=refuse)
    assert canonical_json(parsed) == content
    assert len(parsed["data"]["alerts"][0]["sparkline"]) <= 32


def test_what_is_not_a_number_is_spelled_out() -> None:
    finding = example_finding(value=math.nan, baseline=math.inf, evidence=((1, -math.inf), (2, 1.0)))
    data: Any = body(notification(finding))["data"]
    (alert,) = data["alerts"]
    assert (alert["value"], alert["baseline"]) == ("NaN", "Infinity")
    assert alert["evidence"] == [[1, "-Infinity"], [2, 1.0]]
    assert alert["sparkline"] == "×▄"


def test_canonical_json_refuses_nan_and_survives_a_lone_surrogate() -> None:
    with pytest.raises(ValueError):
        canonical_json({"x": math.nan})
    assert canonical_json({"b": "\ud800", "a": "é"}) == '{"a":"é","b":"?"}'.encode()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1.2345, "1970-01-01T00:00:01.234Z"),
        (-5.0, "1970-01-01T00:00:00.000Z"),
        (math.nan, "1970-01-01T00:00:00.000Z"),
        (math.inf, "9999-12-31T23:59:59.999Z"),
        (1e300, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_every_time_has_a_timestamp(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([5.0], "▄"),
        ([5.0, 5.0], "▄▄"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█"),
        ([1.0, math.nan, 2.0], "▁×█"),
        ([math.nan, math.inf], "××"),
        ([-1e308, 1e308], "▁█"),
        ([0.0] * 63 + [9.0], "▁" * 31 + "█"),
        ([9.0] * 40 + [0.0] + [9.0] * 59, "█" * 13 + "▁" + "█" * 18),
    ],
)
def test_a_sparkline_shows_shape_and_spikes(values: list[float], line: str) -> None:
    assert sparkline(values) == line
