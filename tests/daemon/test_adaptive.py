"""From samples to findings of metrics that leave their course: who, since when, how bad; and what samples may be."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers import adaptive
from rlhfd_daemon.analyzers.adaptive import RULES, Adaptive
from rlhfd_daemon.config import AdaptiveConfig
from rlhfd_daemon.sample import Sample

NAN, INF = math.nan, math.inf
SOON = 12
Steps = Sequence[tuple[int | None, float]]


def sample(step: int | None, value: float, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "run": "r", "boot": "b", "role": "trainer", "rank": 0, "step": step, "time": 1000.0 + (step or 0),
        "name": "train/kl", "value": value, "record_id": step,
    }  # fmt: skip
    return Sample(**{**fields, **changes})


def noise(count: int, level: float = 0.2, relative: float = 0.05, seed: int = 1) -> list[float]:
    source = random.Random(seed)
    return [level * (1 + source.gauss(0, relative)) for _ in range(count)]


def observed(analyzer: Adaptive, steps: Iterable[tuple[int | None, float]], **changes: Any) -> list[Finding]:
    return [found for step, value in steps for found in analyzer.observe(sample(step, value, **changes))]


def findings(values: Iterable[float], first: int = 1, **changes: Any) -> list[Finding]:
    return observed(Adaptive(AdaptiveConfig()), enumerate(values, first), **changes)


def edges(found: Iterable[Finding]) -> list[tuple[str, bool]]:
    return [(finding.rule, finding.active) for finding in found]


def test_a_finding_says_what_changed_since_when_and_on_what_evidence() -> None:
    (found,) = findings([*noise(60), *noise(8, 2.0)])
    assert (found.rule, found.family, found.metric) == ("level_change", "kl", "train/kl")
    assert (found.severity, found.active) == (Severity.WARNING, True)
    assert found.onset_step == 61
    assert found.step is not None
    assert 61 < found.step < 61 + SOON
    assert found.time == 1000.0 + found.step
    assert found.baseline == pytest.approx(0.2, rel=0.1)
    assert found.value == pytest.approx(2.0, rel=0.3)
    assert found.labels == (("role", "trainer"), ("rank", "0"))
    assert found.evidence[-1] == (found.step, found.value)
    assert [step for step, _ in found.evidence] == list(range(found.step - len(found.evidence) + 1, found.step + 1))
    assert found.remedy
    assert "since step 61" in found.summary
    assert f"at step {found.step}" in found.summary
    assert "train/kl is 2" in found.summary or "train/kl is 1.9" in found.summary


def test_it_is_over_when_the_metric_is_back_and_the_end_repeats_the_beginning() -> None:
    begun, ended = findings([*noise(60), *noise(10, 2.0), *noise(20, seed=2)])
    assert (begun.active, ended.active) == (True, False)
    assert (ended.rule, ended.onset_step, ended.severity) == (begun.rule, begun.onset_step, begun.severity)
    assert "back on its course" in ended.summary
    assert ended.step is not None
    assert 70 < ended.step < 70 + SOON


def test_a_level_that_stays_is_told_to_be_the_new_one() -> None:
    found = findings([*noise(60), *noise(100, 2.0)])
    assert [finding.active for finding in found] == [True, False]
    assert "new level" in found[1].summary


@pytest.mark.parametrize(
    ("metric", "family", "to", "severity"),
    [
        ("train/reward", "reward", 5.0, Severity.INFO),
        ("train/reward", "reward", -5.0, Severity.WARNING),
        ("train/entropy_loss", "entropy", 0.01, Severity.WARNING),
        ("train/response_length", "length", 2.0, Severity.WARNING),
        ("train/critic_loss", "value", 2.0, Severity.WARNING),
        ("train/timing/generation", "throughput", 2.0, Severity.INFO),
        ("judge/mood", "custom", 5.0, Severity.INFO),
        ("judge/mood", "custom", -5.0, Severity.INFO),
    ],
)
def test_the_metric_decides_the_family_and_how_bad_it_is(
    metric: str, family: str, to: float, severity: Severity
) -> None:
    (found,) = findings([*noise(60), *noise(45, to)], name=metric)
    assert (found.family, found.severity, found.active) == (family, severity, True)


def test_a_scatter_is_only_told() -> None:
    source = random.Random(1)
    values = [*noise(80, 10.0, 0.01), *(10.0 + source.choice((-1, 1)) * source.uniform(0.8, 1.2) for _ in range(40))]
    found = findings(values, name="train/response_length")
    assert [(finding.rule, finding.severity) for finding in found if finding.active] == [
        ("spread_change", Severity.INFO)
    ]


def test_spikes_and_trends_are_rules_of_their_own() -> None:
    values = noise(100)
    for at in (60, 66, 72):
        values[at] = 9.0
    found = findings(values, name="train/actor_grad_norm")
    assert [finding.rule for finding in found if finding.active] == ["spikes"]
    assert found[0].onset_step == 61
    rising = findings([*noise(60), *(0.2 * 1.06**at for at in range(60))])
    assert rising[0].rule == "trend_change"
    assert {finding.rule for finding in [*found, *rising]} <= set(RULES)


def test_values_that_are_no_numbers_blind_nothing_and_are_left_to_others() -> None:
    values = noise(60)
    values[5] = values[30] = NAN
    values[31] = INF
    assert findings(values) == []
    (found,) = findings([*values, NAN, *noise(4, 2.0), -INF, *noise(6, 2.0)])
    assert found.onset_step == 62
    assert edges(findings([*values, *[NAN] * 300, *noise(8, 2.0)])) == [("level_change", True)]


def test_a_step_that_comes_twice_counts_once() -> None:
    once = list(enumerate([*noise(60), *noise(6, 2.0)], 1))
    twice = [pair for pair in once for _ in range(3)]
    assert len(observed(Adaptive(AdaptiveConfig()), once)) == 1
    assert observed(Adaptive(AdaptiveConfig()), twice) == observed(Adaptive(AdaptiveConfig()), once)
    stuck = [*enumerate(noise(60), 1), *[(61, 2.0)] * 20]
    assert observed(Adaptive(AdaptiveConfig()), stuck) == []


def test_a_sample_that_is_a_little_late_is_left_out() -> None:
    once = list(enumerate([*noise(60), *noise(12, 2.0)], 1))
    late: list[tuple[int | None, float]] = []
    for step, value in once:
        late += [(step, value), *([(step - 1, 77.0)] if step > 5 else []), *([(step - 2, -77.0)] if step > 5 else [])]
    assert observed(Adaptive(AdaptiveConfig()), late) == observed(Adaptive(AdaptiveConfig()), once)


def test_samples_without_a_step_are_taken_as_they_come() -> None:
    analyzer = Adaptive(AdaptiveConfig())
    (found,) = observed(analyzer, [(None, value) for value in [*noise(60), *noise(8, 2.0)]])
    assert (found.step, found.onset_step) == (None, None)
    assert "now" in found.summary


def test_a_run_that_is_resumed_is_learnt_anew_and_its_alert_is_over() -> None:
    analyzer = Adaptive(AdaptiveConfig())
    assert edges(observed(analyzer, enumerate([*noise(60), *noise(8, 2.0)], 1))) == [("level_change", True)]
    (ended,) = observed(analyzer, [(40, 2.0)])
    assert (ended.active, ended.step, ended.onset_step) == (False, 40, 61)
    assert "went back to step 40" in ended.summary
    assert observed(analyzer, enumerate(noise(60, 2.0), 41)) == []  # what was a change then is the course now
    (found,) = observed(analyzer, enumerate(noise(8, 20.0), 101))
    assert found.onset_step == 101


def test_a_resume_without_an_alert_says_nothing() -> None:
    analyzer = Adaptive(AdaptiveConfig())
    assert observed(analyzer, [*enumerate(noise(60), 1), *enumerate(noise(60, 2.0), 20)]) == []


def test_series_are_kept_apart() -> None:
    analyzer = Adaptive(AdaptiveConfig())
    others: list[dict[str, Any]] = [{}, {"run": "r2"}, {"boot": "b2"}, {"role": "critic"}, {"rank": 1}, {"rank": None}]
    for step, value in enumerate([*noise(60), *noise(8, 2.0)], 1):
        for changes in others[:3]:
            analyzer.observe(sample(step, value if changes else 0.2, **changes))
    quiet = [len(observed(analyzer, enumerate(noise(30, 2.0), 69), **changes)) for changes in others]
    assert quiet == [1, 0, 0, 0, 0, 0]


def test_what_is_forgotten_begins_anew_and_nothing_else() -> None:
    analyzer = Adaptive(AdaptiveConfig())
    for boot in ("b", "b2"):
        observed(analyzer, enumerate(noise(60), 1), boot=boot)
    analyzer.forget("r", "b")
    assert observed(analyzer, enumerate(noise(8, 2.0), 61), boot="b") == []
    assert len(observed(analyzer, enumerate(noise(8, 2.0), 61), boot="b2")) == 1


def test_ignored_names_are_not_looked_at() -> None:
    values = [*noise(60), *noise(10, 9.0)]
    quiet = Adaptive(AdaptiveConfig(ignore=("judge/*", "train/kl")))
    for name, alerts in (("train/kl", 0), ("judge/score", 0), ("train/reward", 1)):
        assert len(observed(quiet, enumerate(values, 1), name=name)) == alerts
    assert quiet.watch(sample(1, 0.0)) is None
    assert quiet.watch(sample(1, 0.0, name="train/reward")) is not None


def test_the_number_of_series_is_bounded_and_refusals_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "MAX_SERIES", 2)
    analyzer = Adaptive(AdaptiveConfig())
    for name in ("train/kl", "train/reward", "train/entropy_loss", "train/kl"):
        analyzer.observe(sample(1, 1.0, name=name))
    assert analyzer.refused == 1
    analyzer.forget("r", "b")
    assert len(observed(analyzer, enumerate([*noise(60), *noise(8, 2.0)], 1))) == 1
    assert analyzer.refused == 1


def test_what_watches_a_series_says_the_same_as_observing_it() -> None:
    values = list(enumerate([*noise(60), *noise(10, 2.0), *noise(10)], 1))
    watch = Adaptive(AdaptiveConfig()).watch(sample(1, values[0][1]))
    assert watch is not None
    watched = [found for step, value in values for found in watch(sample(step, value))]
    assert watched == findings(value for _, value in values)
    assert len(watched) == 2


STEPS = st.one_of(st.none(), st.integers(0, 60), st.integers(-(10**12), 10**12))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(STEPS, st.floats()), min_size=20, max_size=150), st.sampled_from(["train/kl", "train/reward"])
)
def test_no_samples_break_it_and_the_same_samples_give_the_same_findings(steps: Steps, name: str) -> None:
    first, second = (observed(Adaptive(AdaptiveConfig()), steps, name=name) for _ in range(2))
    assert list(map(repr, first)) == list(map(repr, second))
    assert [finding.active for finding in first] == [index % 2 == 0 for index in range(len(first))]
