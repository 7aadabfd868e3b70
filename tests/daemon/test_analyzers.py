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
from rlhfd_daemon.analyzers.non_finite import NonFinite
from rlhfd_daemon.analyzers.remedies import remedy
from rlhfd_daemon.analyzers.robust_z import WIDE_SIGMAS, RobustZ, Window, level_and_scale
from rlhfd_daemon.analyzers.series import EVIDENCE, SeriesTable
from rlhfd_daemon.config import AnalyzersConfig, NonFiniteConfig, RobustZConfig
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


def robust(**changes: Any) -> RobustZ:
    return RobustZ(RobustZConfig(**changes))


def test_a_step_change_is_found_after_consecutive_values_and_dated_to_the_first() -> None:
    found = findings(robust(consecutive=3), [*noise(60), *noise(10, 5.0)])
    assert edges(found) == [(63, True)]
    finding = found[0]
    assert (finding.onset_step, finding.onset_time, finding.severity) == (61, 1061.0, Severity.WARNING)
    assert finding.baseline == pytest.approx(1.0, abs=0.1)
    assert finding.value == pytest.approx(5.0, abs=0.5)
    assert len(finding.evidence) == EVIDENCE


def test_a_fall_is_found_like_a_rise() -> None:
    assert edges(findings(robust(), [*noise(60), *noise(5, -3.0)])) == [(63, True)]


def test_a_spike_of_one_or_two_values_is_silent() -> None:
    assert findings(robust(), [*noise(60), 50.0, *noise(30), 50.0, 60.0, *noise(30)]) == []


def test_values_that_jump_to_both_sides_are_no_level() -> None:
    assert findings(robust(), [*noise(60), 50.0, -50.0, 50.0, -50.0, 50.0, -50.0]) == []


def test_a_slow_trend_is_silent() -> None:
    random_source = random.Random(3)
    assert findings(robust(), [0.002 * step + random_source.gauss(0, 0.1) for step in range(1000)]) == []


def test_a_metric_that_never_moved_has_no_scale_to_judge_by() -> None:
    assert findings(robust(), [0.5] * 100) == []
    assert findings(robust(), [*[0.0] * 100, 0.001, 0.001, 0.001, 0.001]) == []


def test_a_metric_that_is_mostly_zero_may_be_its_usual_self_and_is_still_watched() -> None:
    random_source = random.Random(5)
    usual = [random_source.uniform(0.001, 0.004) if random_source.random() < 0.2 else 0.0 for _ in range(1000)]
    assert findings(robust(), usual) == []
    assert edges(findings(robust(), [*usual[:100], *[0.5] * 5])) == [(103, True)]


def test_too_little_history_judges_nothing() -> None:
    assert findings(robust(min_history=20), [*noise(16), 90.0, 90.0, 90.0, 90.0]) == []


def test_values_that_are_no_numbers_are_left_to_the_other_analyzer() -> None:
    found = findings(robust(), [*noise(60), NAN, 5.0, INF, 5.1, -INF, 4.9, NAN])
    assert edges(found) == [(66, True)]
    assert all(math.isfinite(value) for _, value in found[0].evidence)


def test_it_ends_after_consecutive_values_inside() -> None:
    found = findings(robust(consecutive=3), [*noise(60), *[5.0] * 4, *noise(10, seed=2)])
    assert edges(found) == [(63, True), (67, False)]
    assert found[1].onset_step == 61


def test_a_level_held_for_a_whole_window_becomes_the_baseline() -> None:
    found = findings(robust(window=20), [*noise(40), *noise(60, 5.0), *noise(3, 9.0)])
    assert edges(found) == [(43, True), (60, False), (103, True)]
    assert found[2].baseline == pytest.approx(5.0, abs=0.2)


def test_the_present_is_never_part_of_the_window_it_is_judged_by() -> None:
    """A value must be judged by the past alone, so what comes after cannot change what was said before."""
    values = [*noise(60), *noise(5, 5.0), *noise(10), *noise(5, -8.0)]
    whole = findings(robust(), values)
    assert len(whole) == 3
    for length in range(len(values)):
        assert findings(robust(), values[:length]) == [f for f in whole if f.step is not None and f.step <= length]


def test_the_smallest_history_shows_that_the_judged_value_is_outside_the_window() -> None:
    # With the value itself in the window the deviation of 4 values would reach the threshold only much later.
    analyzer = robust(min_history=3, window=10, consecutive=1, threshold=8.0)
    assert edges(findings(analyzer, [1.0, 1.1, 0.9, 9.0])) == [(4, True)]


@pytest.mark.parametrize("name", ["timing/generation", "actor/timing/x", "actor_lr", "critic/lr", "lr"])
def test_ignored_names_are_not_looked_at(name: str) -> None:
    assert findings(robust(), [*noise(60), *[50.0] * 10], name=name) == []


def test_what_is_forgotten_begins_anew_and_nothing_else() -> None:
    for analyzer in (robust(min_history=20), NonFinite(NonFiniteConfig())):
        for boot in ("b", "b2"):
            findings(analyzer, noise(40), boot=boot)
        bad = [NAN] if isinstance(analyzer, NonFinite) else [9.0] * 3
        assert len(findings(analyzer, bad, boot="b")) == 1
        analyzer.forget("r", "b")
        assert len(findings(analyzer, bad, boot="b")) == isinstance(analyzer, NonFinite)
        assert len(findings(analyzer, bad, boot="b2")) == 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=120), st.integers(3, 50))
def test_the_window_in_order_of_size_holds_the_newest_values_and_its_shortcuts_are_never_wrong(
    values: list[float], size: int
) -> None:
    window = Window(size)
    for count, value in enumerate(values):
        if count >= 3:
            level, scale = window.level_and_scale()
            assert (level, scale) == level_and_scale(values[max(0, count - size) : count])
            if window.is_central(value) and scale > 0:
                assert abs(value - level) / scale <= WIDE_SIGMAS * (1 + 1e-9)
            for sigmas in (0.5, 2.0, 8.0):
                if window.is_near(value, sigmas) and scale > 0:
                    assert abs(value - level) / scale <= sigmas * (1 + 1e-6)
        window.add(value)
    assert len(window) == min(size, len(values))


def test_nothing_follows_from_time_alone() -> None:
    assert [list(analyzer.tick(1e10)) for analyzer in build(AnalyzersConfig())] == [[], [], []]


def test_only_enabled_analyzers_are_built() -> None:
    off = {name: {"enabled": False} for name in ("robust_z", "incidents")}
    assert [type(analyzer) for analyzer in build(msgspec.convert(off, AnalyzersConfig))] == [NonFinite]
    assert build(msgspec.convert({**off, "non_finite": {"enabled": False}}, AnalyzersConfig)) == ()


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
    st.tuples(st.sampled_from(["a", "b"]), st.one_of(st.floats(), st.floats(-2, 2))), min_size=30, max_size=120
)


@settings(max_examples=60, deadline=None)
@given(streams)
def test_the_same_samples_give_the_same_findings(stream: Sequence[tuple[str, float]]) -> None:
    config = AnalyzersConfig(robust_z=RobustZConfig(window=10, min_history=5, consecutive=1))

    def play() -> list[str]:
        analyzers = build(config)
        samples = [sample(step, value, name=name) for step, (name, value) in enumerate(stream)]
        found = [finding for one in samples for analyzer in analyzers for finding in analyzer.observe(one)]
        return [repr(dataclasses.astuple(finding)) for finding in found]

    assert play() == play()


def healthy_run(seed: int, steps: int = 400) -> dict[str, list[float]]:
    """The usual shapes of a PPO run's metrics (made here): learning curves, bounded ratios, heavy-tailed norms."""
    source = random.Random(seed)
    progress = [1 - math.exp(-step / 150) for step in range(steps)]
    return {
        "reward": [p + source.gauss(0, 0.08) for p in progress],
        "policy_loss": [source.gauss(0, 0.02) for _ in progress],
        "kl": [0.01 + 0.04 * p + abs(source.gauss(0, 0.004)) for p in progress],
        "actor_grad_norm": [source.lognormvariate(0, 0.4) for _ in progress],
        "response_length": [200 + 150 * p + source.gauss(0, 12) for p in progress],
        "clip_ratio": [max(0.0, source.gauss(0.01, 0.02)) for _ in progress],
        "entropy": [1.2 - 0.7 * p + source.gauss(0, 0.03) for p in progress],
        "truncated": [source.choice([0.0, 0.0, 0.0, 1 / 64, 2 / 64]) for _ in progress],
    }


def alarms(shapes: Iterable[str]) -> list[tuple[int, str, int | None]]:
    runs = [(seed, healthy_run(seed)) for seed in range(8)]
    return [
        (seed, name, finding.step)
        for seed, run in runs
        for name in shapes
        for finding in findings(robust(), run[name], name=name)
        if finding.active
    ]


def test_healthy_shapes_raise_no_alarm() -> None:
    assert alarms(healthy_run(0)) == []
