"""Matchers as Alertmanager reads them, and expressions that cannot take long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_alerts.errors import MatcherError
from rlhfd_alerts.labels import LABELS, labels_of
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.matchers import MAX_VALUE, Matcher, matches, parse_matcher, parse_matchers
from rlhfd_alerts.testing import example_finding

LABELLED = {"run": "ppo-7", "rule": "kl_runaway", "severity": "critical"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('run="ppo-7"', True),
        ("run=ppo-7", True),
        (' run = "ppo-7" ', True),
        ('run="ppo"', False),
        ('run!="ppo"', True),
        ('run=~"ppo"', False),  # anchored at both ends
        ('run=~"ppo-[0-9]+"', True),
        ('run!~"ppo-.*"', False),
        ('rule=~"kl_.*|entropy_.*"', True),
        ('absent=""', True),
        ('absent!=""', False),
        ('absent=~".+"', False),
        ('absent=~".*"', True),
    ],
)
def test_a_matcher_means_what_alertmanager_means(text: str, expected: bool) -> None:
    assert parse_matcher(text).matches(LABELLED) is expected


def test_several_matchers_must_all_be_met_and_none_is_met_by_everything() -> None:
    assert matches(parse_matchers(['run=~"ppo.*"', "severity=critical"]), LABELLED)
    assert not matches(parse_matchers(['run=~"ppo.*"', "severity=warning"]), LABELLED)
    assert matches((), LABELLED)


@given(st.text(max_size=40))
def test_a_matcher_is_read_as_it_was_written(value: str) -> None:
    matcher = Matcher("run", "=", value)
    assert parse_matcher(str(matcher)) == matcher


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("run", "is no matcher"),
        ('="x"', "is no matcher"),
        ("run==x", "double quotes"),
        ('run="x", rule="y"', "as one matcher"),
        ('run="x"y"', "double quotes"),
        ('run=~"("', "not a regular expression"),
        ('run=~"(a+)+"', "must not be repeated"),
        ('run=~"(?:a|aa)*"', "must not be repeated"),
        ('run=~"((a|b)c){3}"', "must not be repeated"),
        ('run=~".*.*.*.*x"', "at most 3 repetitions"),
        ('run=~"a?a?a?a?a?a?a?a?a?b"', "8 optional parts"),
        (r'run=~"(a)\\1"', "back references"),
        ('run=~"(?=a)b"', "back references"),
        ('run=~"' + "a" * 300 + '"', "longer than 256"),
    ],
)
def test_what_is_refused_is_named_with_the_way_out(text: str, named: str) -> None:
    with pytest.raises(MatcherError, match=named) as caught:
        parse_matcher(text)
    assert text[:20].replace("\\", "") in str(caught.value).replace("\\", "")


@pytest.mark.parametrize(
    "pattern", [r"a\.b\+\*\?c", "[*+?]x[)(|]*", "(kl|entropy)_.*", "https?://x", "(kl|reward)?x", "a*?b"]
)
def test_harmless_patterns_are_taken(pattern: str) -> None:
    Matcher("run", "=~", parse_matcher(str(Matcher("run", "=~", pattern))).value)


def test_the_slowest_pattern_that_is_taken_is_done_in_no_time() -> None:
    slow = parse_matcher('run=~".*a.*b.*c"')
    began = time.process_time()
    assert not slow.matches({"run": "ab" * 10_000})
    assert time.process_time() - began < 1.0
    assert Matcher("run", "=~", ".*").matches({"run": "x" * (MAX_VALUE + 1)})


def test_an_alert_has_the_labels_it_is_known_by_and_its_findings_cannot_forge_them() -> None:
    finding = example_finding(labels=(("role", "actor"), ("rank", "3"), ("run", "other"), ("gpu", "1")), episode="ep_1")
    transition = Lifecycle().observe(finding, 1)
    assert transition is not None
    labels = labels_of(transition.alert, host="node-1")
    assert {name: labels.get(name) for name in LABELS} == {
        "run": "example", "boot": "boot-1", "rule": "kl_runaway", "family": "policy", "severity": "warning",
        "metric": "train/kl", "episode": "ep_1", "host": "node-1", "role": "actor", "rank": "3",
    }  # fmt: skip
    assert labels["gpu"] == "1"
