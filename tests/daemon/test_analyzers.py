"""What the analyzers find, what they leave alone, and that the same samples always give the same findings."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers import Analyzer, build
from rlhfd_daemon.analyzers.dispatch import Dispatch
from rlhfd_daemon.analyzers.non_finite import NonFinite
from rlhfd_daemon.analyzers.remedies import remedy
from rlhfd_daemon.analyzers.series import SeriesTable
from rlhfd_daemon.config import AnalyzersConfig, NonFiniteConfig
from rlhfd_daemon.sample import Sample

NAN, INF = math.nan, math.inf


def sample(step: int, value: float, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "run": "r", "boot": "b", "role": "trainer", "rank": 0, "step": step, "time": 1000.0 + step,
        "name": "train/loss", "value": value, "record_id": step,
    }  # fmt: skip
    return Sample(**{**fields, **changes})


def findings(analyzer: Analyzer, values: Iterable[float], first: int = 1, **changes: Any) -> list[Finding]:
    return [
        finding
        for step, value in enumerate(values, first)
        for finding in analyzer.observe(sample(step, value, **changes))
    ]


def edges(found: Iterable[Finding]) -> list[tuple[int | None, bool]]:
    """(step, active) of each finding."""
    return [(finding.step, finding.active) for finding in found]


def noise(count: int, level: float = 1.0, spread: float = 0.1, seed: int = 1) -> list[float]:
    random_source = random.Random(seed)
    return [random_source.gauss(level, spread) for _ in range(count)]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_the_first_value_that_is_no_number_is_one_critical_finding(value: float) -> None:
    found = findings(NonFinite(NonFiniteConfig()), [1.0, 2.0, value, value, NAN, INF])
    assert edges(found) == [(3, True)]
    finding = found[0]
    assert (finding.severity, finding.metric, finding.onset_step, finding.onset_time) == (
        Severity.CRITICAL, "train/loss", 3, 1003.0,
    )  # fmt: skip
    assert "train/loss" in finding.summary
    assert "step 3" in finding.summary
    assert finding.labels == (("role", "trainer"), ("rank", "0"))
    assert [step for step, _ in finding.evidence] == [1, 2, 3]


def test_non_finite_ends_after_enough_finite_values_in_a_row_and_can_begin_again() -> None:
    analyzer = NonFinite(NonFiniteConfig(clear_after=3))
    found = findings(analyzer, [NAN, 1, 1, NAN, 1, 1, 1, 1, NAN])
    assert edges(found) == [(1, True), (7, False), (9, True)]
    assert (found[1].onset_step, found[2].onset_step) == (1, 9)


def test_non_finite_keeps_series_apart() -> None:
    analyzer = NonFinite(NonFiniteConfig())
    others: list[dict[str, Any]] = [
        {}, {"run": "r2"}, {"boot": "b2"}, {"role": "critic"}, {"rank": 1}, {"rank": None}, {"name": "train/kl"}
    ]  # fmt: skip
    assert [edges(findings(analyzer, [NAN], **changes)) for changes in others] == [[(1, True)]] * len(others)


def test_what_is_forgotten_begins_anew_and_nothing_else() -> None:
    analyzer = NonFinite(NonFiniteConfig())
    for boot in ("b", "b2"):
        assert len(findings(analyzer, [NAN], boot=boot)) == 1
    analyzer.forget("r", "b")
    assert len(findings(analyzer, [NAN], first=2, boot="b")) == 1
    assert findings(analyzer, [NAN], first=2, boot="b2") == []


def test_nothing_follows_from_time_alone() -> None:
    analyzers = build(AnalyzersConfig())
    assert len(analyzers) >= 8
    assert [found for analyzer in analyzers for found in analyzer.tick(1e10)] == []


def test_only_enabled_analyzers_are_built() -> None:
    off = {name: {"enabled": False} for name in AnalyzersConfig.__struct_fields__}
    assert build(msgspec.convert(off, AnalyzersConfig)) == ()
    only = msgspec.convert({**off, "non_finite": {"enabled": True}}, AnalyzersConfig)
    assert [type(analyzer) for analyzer in build(only)] == [NonFinite]


def test_the_number_of_series_is_bounded_and_refusals_are_counted() -> None:
    table: SeriesTable[list[int]] = SeriesTable(list, limit=2)
    states = [table.get(sample(1, 0.0, name=name)) for name in "abcab"]
    assert [state is None for state in states] == [False, False, True, False, False]
    assert table.refused == 1
    table.forget("r", "b")
    assert table.get(sample(1, 0.0, name="c")) is not None


def test_every_metric_has_a_remedy_and_the_first_pattern_counts() -> None:
    assert "spread" in remedy("rollout/reward_std")
    assert "--actor.adam.lr" in remedy("train/actor_grad_norm")
    assert remedy("something/else")


streams = st.lists(
    st.tuples(st.sampled_from(["train/kl", "b"]), st.one_of(st.floats(), st.floats(-2, 2))), min_size=30, max_size=120
)


@settings(max_examples=60, deadline=None)
@given(streams)
def test_the_same_samples_give_the_same_findings(stream: Sequence[tuple[str, float]]) -> None:
    def play() -> list[str]:
        analyzers = build(AnalyzersConfig())
        samples = [sample(step, value, name=name) for step, (name, value) in enumerate(stream)]
        found = [finding for one in samples for analyzer in analyzers for finding in analyzer.observe(one)]
        return [repr(dataclasses.astuple(finding)) for finding in found]

    assert play() == play()


def healthy_run(seed: int, steps: int = 400) -> dict[str, list[float]]:
    """The usual shapes of a PPO run's metrics (made here): learning curves, bounded ratios, heavy-tailed norms."""
    source = random.Random(seed)
    progress = [1 - math.exp(-step / 150) for step in range(steps)]
    return {
        "train/reward": [p + source.gauss(0, 0.08) for p in progress],
        "train/policy_loss": [source.gauss(0, 0.02) for _ in progress],
        "train/kl": [0.01 + 0.04 * p + abs(source.gauss(0, 0.004)) for p in progress],
        "train/actor_grad_norm": [source.lognormvariate(0, 0.4) for _ in progress],
        "train/response_length": [200 + 150 * p + source.gauss(0, 12) for p in progress],
        "train/ppo_clip_ratio": [max(0.0, source.gauss(0.01, 0.02)) for _ in progress],
        "train/entropy_loss": [1.2 - 0.7 * p + source.gauss(0, 0.03) for p in progress],
        "train/truncated_ratio": [source.choice([0.0, 0.0, 0.0, 1 / 64, 2 / 64]) for _ in progress],
    }


@pytest.mark.parametrize("seed", range(8))
def test_healthy_shapes_raise_no_alarm(seed: int) -> None:
    run = healthy_run(seed)
    analyzers = Dispatch(build(AnalyzersConfig()))
    found = [
        finding
        for step in range(400)
        for finding in analyzers.observe([sample(step, values[step], name=name) for name, values in run.items()])
    ]
    assert [(one.rule, one.metric, one.step) for one in found if one.severity is not Severity.INFO] == []
