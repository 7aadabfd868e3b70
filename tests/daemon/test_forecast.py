"""What will run out, fill up or reach its limit soon, and which rises and falls foretell nothing."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detecting.logs import labelled, listened
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon import metrics
from rlhfd_daemon.analyzers.forecast import DISK, MEMORY, SupplyForecast
from rlhfd_daemon.analyzers.forecast_steps import ENTROPY, LENGTH, StepForecast
from rlhfd_daemon.analyzers.line import blocks, course, fit, steady
from rlhfd_daemon.config_analyzers import ForecastConfig
from rlhfd_daemon.rules.catalogue import find
from rlhfd_daemon.sample import Happening, Sample

GIB = 2.0**30
NAN, INF = math.nan, math.inf
LENGTH_NAME, ENTROPY_NAME, REWARD_NAME = (
    "train/rollout/response_length_mean", "train/entropy_loss", "train/rollout/reward_mean",
)  # fmt: skip


def test_a_line_through_points_on_a_line_is_that_line() -> None:
    line = fit([0, 1, 2, 3], [5, 3, 1, -1])
    assert line is not None
    assert (line.slope, line.at_end, line.r2) == pytest.approx((-2, -1, 1))
    assert line.error == pytest.approx(0, abs=1e-9)


def test_there_is_no_line_through_too_few_points_or_through_one_x_or_beyond_floats() -> None:
    assert fit([1, 2], [1, 2]) is None
    assert fit([1, 1, 1], [1, 2, 3]) is None
    assert fit([1, 2, 3], [1e300, -1e300, 1e300]) is None
    assert fit([1, 2, 3], [1, NAN, 3]) is None


def test_the_error_of_a_slope_is_what_slopes_of_other_noise_scatter_by() -> None:
    source = random.Random(1)
    xs = list(range(30))
    lines = [fit(xs, [source.gauss(0, 1) for _ in xs]) for _ in range(400)]
    slopes = [line.slope for line in lines if line is not None]
    scatter = math.sqrt(sum(slope * slope for slope in slopes) / len(slopes))
    errors = [line.error for line in lines if line is not None]
    assert sum(errors) / len(errors) == pytest.approx(scatter, rel=0.1)


def test_blocks_are_medians_of_the_newest_values() -> None:
    assert blocks([999, *range(24)]) == [1, 4, 7, 10, 13, 16, 19, 22]


@pytest.mark.parametrize(
    ("shape", "is_steady"),
    [
        (lambda i: i, True),
        (lambda i: -3 * i + (1000 if i == 17 else 0), True),  # one value far out
        (lambda i: 2 ** (i / 30), True),  # faster and faster
        (lambda i: 0, False),
        (lambda i: 0 if i < 40 else 50, False),  # a jump
        (lambda i: i if i < 50 else 50, False),  # a pause at the end
        (lambda i: 1 - math.exp(-i / 20), False),  # coming to its end
        (lambda i: i % 20, False),  # teeth
        (lambda i: 10 * (i // 40), False),  # stairs
    ],
)
def test_a_course_is_steady_if_it_goes_one_way_all_the_time(shape: Callable[[int], float], is_steady: bool) -> None:
    xs = list(range(80))
    assert (steady(xs, [shape(i) for i in xs]) is not None) is is_steady


def test_there_is_no_course_of_what_turns_or_comes_to_its_end() -> None:
    for shape in (lambda i: abs(40 - i), lambda i: math.exp(-i / 20), lambda i: 0):
        assert course(range(80), [shape(i) for i in range(80)]) is None


def test_a_course_that_slows_down_lasts_as_long_as_halving_steps_add_up_to() -> None:
    def lasts(shape: Callable[[int], float]) -> float:
        line = steady(range(80), [shape(i) for i in range(80)])
        assert line is not None
        return line.lasts

    assert lasts(lambda i: i * i) == math.inf
    left = math.exp(-79 / 100) / (math.exp(-79 / 100) / 100)  # of an exponential: 100 steps at its slope at the end
    assert 0.5 * left < lasts(lambda i: math.exp(-i / 100)) < left


def polled(name: str, values: Iterable[float], every: float = 5.0, start: float = 0.0) -> Iterator[Sample]:
    for number, value in enumerate(values):
        yield Sample("node:h", "k", "rlhfd", None, None, name, value, start + every * number, number)


def predicted(samples: Iterable[Sample], forecast: SupplyForecast | None = None, **config: Any) -> list[Finding]:
    analyzer = SupplyForecast(ForecastConfig(**config)) if forecast is None else forecast
    return [finding for sample in samples for finding in analyzer.observe(sample)]


def gpu(used: Iterable[float], total: float = 80.0) -> Iterator[Sample]:
    yield from polled("gpu/0/memory_total_bytes", [total * GIB])
    yield from polled("gpu/0/memory_used_bytes", [value * GIB for value in used])


@pytest.mark.parametrize("rule", [MEMORY, DISK])
def test_the_catalogue_names_metrics_of_the_table_that_the_forecast_reads(rule: str) -> None:
    row = find(rule)
    assert row is not None
    for name in row.metrics:
        assert metrics.find(name) is not None
        sample = next(polled(re.sub("<[a-z]+>", "0", name), [1.0]))
        assert SupplyForecast(ForecastConfig()).watch(sample) is not None, name


def noisy(count: int, start: float, per_minute: float, spread: float = 0.05, every: float = 5.0) -> list[float]:
    source = random.Random(count)
    return [start + per_minute * every * i / 60 + source.gauss(0, spread) for i in range(count)]


def test_gpu_memory_that_leaks_is_a_warning_half_an_hour_before_the_end_and_critical_ten_minutes_before() -> None:
    found = predicted(gpu(noisy(650, 57.0, 0.4)))  # 80 GiB are reached after 57.5 minutes
    assert [(one.rule, one.severity, one.active) for one in found] == [
        (MEMORY, Severity.WARNING, True), (MEMORY, Severity.CRITICAL, True),
    ]  # fmt: skip
    warning, critical = found
    assert (57.5 * 60 - warning.time) / 60 == pytest.approx(30, abs=2)
    assert (57.5 * 60 - critical.time) / 60 == pytest.approx(10, abs=2)
    assert warning.metric == "gpu/0/memory_used_bytes"
    assert "GiB of 80.0 GiB are left and 4" in warning.summary
    assert "exhausted in about" in warning.summary
    assert "--vllm.gpu_memory_utilization" in warning.remedy
    assert warning.onset_time < warning.time - 300
    assert warning.evidence


def test_a_disk_that_fills_and_a_host_and_a_group_that_lose_memory_are_told_by_their_own_remedies() -> None:
    fall = [value * GIB for value in noisy(100, 25.0, -1.5)]
    rise = [value * GIB for value in noisy(100, 75.0, 1.5)]
    for total, name, values, rule, remedy in (
        ("disk/root/total_bytes", "disk/root/free_bytes", fall, DISK, "--ckpt.max_num"),
        ("host/memory_total_bytes", "host/memory_available_bytes", fall, MEMORY, "--vllm.num_engines"),
        ("host/cgroup_memory_limit_bytes", "host/cgroup_memory_bytes", rise, MEMORY, "--vllm.num_engines"),
        ("cgroup/memory_limit_bytes", "cgroup/memory_bytes", rise, MEMORY, "--vllm.num_engines"),
        ("host/shm_total_bytes", "host/shm_used_bytes", rise, MEMORY, "--vllm.num_engines"),
    ):
        found = predicted([*polled(total, [100 * GIB]), *polled(name, values)])
        assert [(one.rule, one.metric, one.severity) for one in found][:1] == [(rule, name, Severity.WARNING)], name
        assert remedy in found[0].remedy


def test_the_process_that_grows_is_named_where_the_host_runs_out() -> None:
    def samples() -> Iterator[Sample]:
        yield from polled("host/memory_total_bytes", [100 * GIB])
        grows = polled("process/RolloutRayActor-0/rss_bytes", [v * GIB for v in noisy(100, 20, 1.5)])
        stays = polled("process/PolicyModelActor-0/rss_bytes", [v * GIB for v in noisy(100, 40, 0)])
        falls = polled("host/memory_available_bytes", [v * GIB for v in noisy(100, 25, -1.5)])
        for three in zip(grows, stays, falls, strict=True):
            yield from three

    found = predicted(samples())
    assert "; process/RolloutRayActor-0/rss_bytes of node:h grows by 1.5 GiB a minute" in found[0].summary


@pytest.mark.parametrize(
    "used",
    [
        pytest.param([78.0] * 2000, id="full, but constant"),
        pytest.param([2.0] * 30 + [76.0] * 2000, id="the memory pool of an engine"),
        pytest.param(noisy(2000, 70.0, 0.0, 3.0), id="noise"),
        pytest.param([60 + 18 * (1 - math.exp(-i / 60)) for i in range(2000)], id="caches that fill up"),
        pytest.param([70 + 9 * (i % 24) / 24 for i in range(2000)], id="two minutes up, then down"),
        pytest.param([10.0 if (i // 30) % 2 else 77.0 for i in range(2000)], id="an engine that sleeps and wakes"),
        pytest.param(noisy(2000, 57.0, 0.1), id="slowly enough"),
        pytest.param([5 + 0.5 * i for i in range(100)], id="weights being loaded"),
    ],
)
def test_memory_that_is_used_as_usual_foretells_nothing(used: list[float]) -> None:
    assert predicted(gpu(used)) == []


def test_what_rises_and_falls_for_long_is_known_after_the_first_time() -> None:
    tooth = [60 + 18 * i / 240 for i in range(240)]  # 20 minutes
    first = predicted(gpu(tooth))
    assert {one.active for one in first} == {True}
    found = predicted(gpu(tooth * 8))
    assert [one.active for one in found] == [*[True] * len(first), False]


def test_a_prediction_ends_when_the_fall_does_and_can_be_made_again() -> None:
    def values() -> list[float]:
        leak = noisy(150, 65.0, 0.9)
        return [*leak, *[leak[-1]] * 150, *noisy(75, leak[-1], 0.5)]

    found = predicted(gpu(values()))
    assert [(one.active, one.severity) for one in found] == [
        (True, Severity.WARNING), (True, Severity.CRITICAL), (False, Severity.CRITICAL), (True, Severity.CRITICAL),
    ]  # fmt: skip
    assert "no longer go at that rate" in found[2].summary


def test_a_trend_must_be_seen_for_minutes_and_in_enough_values() -> None:
    assert predicted(gpu(noisy(59, 70.0, 1.5))) == []
    slow = polled("gpu/0/memory_used_bytes", [v * GIB for v in noisy(19, 60.0, 0.9, every=60)], every=60)
    assert predicted([*polled("gpu/0/memory_total_bytes", [80 * GIB]), *slow]) == []


def test_a_short_trend_is_not_carried_on_for_long() -> None:
    assert predicted(gpu(noisy(75, 60.0, 0.6, 0.0))) == []  # seen for 6 minutes, 27 from the end
    assert len(predicted(gpu(noisy(150, 60.0, 0.6, 0.0)))) == 1


def test_a_leak_with_some_noise_does_not_flap() -> None:
    for seed in range(5):
        source = random.Random(seed)
        found = predicted(gpu(value + source.gauss(0, 0.25) for value in noisy(650, 57.0, 0.4)))
        assert [one.active for one in found] == [True, True], seed


def test_values_that_come_every_second_are_thinned_out() -> None:
    leak = [(60 + 0.9 * i / 60) * GIB for i in range(900)]
    found = predicted([*polled("gpu/0/memory_total_bytes", [80 * GIB]), *polled("gpu/0/memory_used_bytes", leak, 1.0)])
    assert [one.severity for one in found] == [Severity.WARNING, Severity.CRITICAL]


def test_a_gap_or_a_clock_set_back_begins_anew() -> None:
    forecast = SupplyForecast(ForecastConfig())
    name, leak = "gpu/0/memory_used_bytes", [v * GIB for v in noisy(55, 70.0, 1.5)]
    assert predicted(polled("gpu/0/memory_total_bytes", [80 * GIB]), forecast) == []
    for start in (10_000.0, 20_000.0, 5_000.0):
        assert predicted(polled(name, leak, start=start), forecast) == []


def test_another_size_is_another_supply() -> None:
    free = [value * GIB for value in noisy(75, 25.0, -1.5, 0.0)]
    before, after = list(polled("disk/root/free_bytes", free))[:65], list(polled("disk/root/free_bytes", free))[65:]
    size, larger = (list(polled("disk/root/total_bytes", [gib * GIB])) for gib in (100, 101))
    assert len(predicted([*size, *before, *size, *after])) == 1
    assert predicted([*size, *before, *larger, *after]) == []


def test_a_supply_without_a_size_or_with_values_that_are_no_numbers_is_no_supply() -> None:
    leak = [v * GIB for v in noisy(100, 70.0, 1.5)]
    assert predicted(polled("gpu/0/memory_used_bytes", leak)) == []
    broken = [value for pair in zip(leak, [NAN, INF, -INF, 1e308] * 25, strict=True) for value in pair]
    sized = [*polled("gpu/0/memory_total_bytes", [80 * GIB, NAN, INF, 0.0])]
    assert predicted([*sized, *polled("gpu/0/memory_used_bytes", broken[:8] + leak)])  # not blind after it


def test_only_what_says_something_of_a_supply_is_watched() -> None:
    forecast = SupplyForecast(ForecastConfig())
    watched = [forecast.watch(next(polled(name, [1.0]))) is not None for name in (
        "gpu/0/memory_used_bytes", "disk/data_ckpt/free_bytes", "process/PPOTrainer/rss_bytes", "train/kl",
        "gpu/0/memory_free_bytes", "host/swap_used_bytes",
    )]  # fmt: skip
    assert watched == [True, True, True, False, False, False]


def test_a_forgotten_run_leaves_nothing() -> None:
    forecast = SupplyForecast(ForecastConfig())
    predicted(gpu(noisy(100, 60.0, 0.9)), forecast)
    forecast.forget("node:h", "k")
    assert predicted(polled("gpu/0/memory_used_bytes", [v * GIB for v in noisy(100, 70.0, 1.5)]), forecast) == []


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats()), max_size=100))
@settings(max_examples=100, deadline=None)
def test_any_times_and_values_are_borne_and_a_leak_after_them_is_seen(noise: list[tuple[float, float]]) -> None:
    forecast = SupplyForecast(ForecastConfig())
    predicted(polled("gpu/0/memory_total_bytes", [80 * GIB]), forecast)
    for time, value in noise:
        list(forecast.observe(Sample("node:h", "k", "rlhfd", None, None, "gpu/0/memory_used_bytes", value, time, 0)))
    leak = polled("gpu/0/memory_used_bytes", [v * GIB for v in noisy(400, 58.0, 0.6)], start=3e9)
    assert any(one.active for one in predicted(leak, forecast))


def start(cap: float | None, name: str = "run_start", role: str = "PPOTrainer") -> Happening:
    context = {"args": {} if cap is None else {"rollout.max_new_tokens": cap}}
    fields: dict[str, Any] = context if name == "run_start" else {"context": context}
    return Happening("r", "b", role, None, None, name, fields, 0.0, 0)


def stepped(values: dict[str, list[float]], cap: float | None = None, first: int = 1) -> list[Finding]:
    forecast = StepForecast(ForecastConfig())
    list(forecast.happened(start(cap)))
    found: list[Finding] = []
    for number, row in enumerate(zip(*values.values(), strict=True), first):
        for name, value in zip(values, row, strict=True):
            found += forecast.observe(Sample("r", "b", "PPOTrainer", None, number, name, value, 1.0 * number, number))
    return found


def rising(count: int, first: float, per_step: float, spread: float = 1.0, seed: int = 2) -> list[float]:
    source = random.Random(seed)
    return [first + per_step * i + source.gauss(0, spread) for i in range(count)]


def test_lengths_that_will_reach_the_cap_are_told_before_and_a_warning_shortly_before() -> None:
    found = stepped({LENGTH_NAME: rising(120, 400.0, 5.0)}, cap=1024)  # at step 125
    assert [(one.rule, one.severity, one.active) for one in found] == [
        (LENGTH, Severity.INFO, True), (LENGTH, Severity.WARNING, True),
    ]  # fmt: skip
    assert (found[0].step, found[0].family, found[0].baseline) == (90, "length", 1024)
    assert "reaches the cap of 1024 tokens in about 35 steps" in found[0].summary
    assert found[0].evidence[-1][0] == 90


def test_lengths_say_nothing_without_a_cap_far_below_it_or_when_they_stay() -> None:
    assert stepped({LENGTH_NAME: rising(120, 400.0, 5.0)}) == []
    assert stepped({LENGTH_NAME: rising(80, 100.0, 5.0)}, cap=1024) == []
    assert stepped({LENGTH_NAME: rising(200, 950.0, 0.0, 10.0)}, cap=1024) == []
    assert stepped({LENGTH_NAME: [1024.0] * 100}, cap=1024) == []


def test_a_prediction_of_length_ends_when_the_lengths_stay() -> None:
    found = stepped({LENGTH_NAME: [*rising(100, 400.0, 5.0), *rising(100, 900.0, 0.0)]}, cap=1024)
    assert [one.active for one in found] == [True, False]


def test_the_cap_is_known_after_a_restart_too_and_forgotten_with_the_run() -> None:
    forecast = StepForecast(ForecastConfig())
    list(forecast.happened(start(1024, "run_context", "rlhfd")))
    lengths = rising(120, 400.0, 5.0)
    samples = [Sample("r", "b", "PPOTrainer", None, i, LENGTH_NAME, v, 1.0, i) for i, v in enumerate(lengths, 1)]
    assert [finding for one in samples for finding in forecast.observe(one)]
    forecast.forget("r", "b")
    assert not [finding for one in samples for finding in forecast.observe(one)]


def test_entropy_that_falls_steadily_to_its_floor_is_an_info_while_the_reward_does_not_rise() -> None:
    falling, flat = rising(50, 0.5, -0.01, 0.004), rising(50, 1.0, 0.0, 0.05)
    found = stepped({ENTROPY_NAME: falling, REWARD_NAME: flat})
    assert [(one.rule, one.severity, one.step) for one in found] == [(ENTROPY, Severity.INFO, 30)]
    assert "it reaches 0.02 in about" in found[0].summary
    assert stepped({ENTROPY_NAME: falling, REWARD_NAME: rising(50, 1.0, 0.05, 0.05)}) == []
    assert stepped({ENTROPY_NAME: falling}) != []  # reward unknown


def test_entropy_that_levels_off_or_is_constant_foretells_nothing() -> None:
    assert stepped({ENTROPY_NAME: [0.05 + 0.5 * math.exp(-i / 20) for i in range(200)]}) == []
    assert stepped({ENTROPY_NAME: [0.01] * 100}) == []
    for seed in range(10):
        assert stepped({ENTROPY_NAME: rising(200, 0.08, 0.0, 0.05, seed)}) == []


def test_steps_that_come_twice_or_late_count_once() -> None:
    forecast = StepForecast(ForecastConfig())
    falling = list(enumerate(rising(50, 0.5, -0.01, 0.004), 1))
    twice = [one for pair in zip(falling[::2], falling[1::2], strict=True) for one in (*pair, *pair)]
    samples = [Sample("r", "b", "T", None, step, ENTROPY_NAME, value, 1.0, 1) for step, value in twice]
    assert [finding.active for one in samples for finding in forecast.observe(one)] == [True]


def test_healthy_real_runs_are_on_their_way_to_no_limit_also_where_answers_may_not_be_much_longer() -> None:
    healthy = [log for log in labelled() if log.label.group == "openrlhf" and log.label.fault is None]
    assert len(healthy) >= 10
    for log in healthy:
        forecast = StepForecast(ForecastConfig())
        fields = {"args": {"rollout.max_new_tokens": 12}}
        list(
            forecast.happened(Happening(log.label.name, "check", "PPOTrainer", None, None, "run_start", fields, 0.0, 0))
        )
        assert listened(log, lambda forecast=forecast: [forecast]) == []  # type: ignore[misc]


STEP = st.integers(-5, 50)


@given(st.lists(st.tuples(STEP, st.floats(allow_nan=True, allow_infinity=True)), max_size=100))
@settings(max_examples=100, deadline=None)
def test_any_steps_and_values_are_borne_and_a_fall_after_them_is_seen(noise: list[tuple[int, float]]) -> None:
    forecast = StepForecast(ForecastConfig())
    falling = list(enumerate(rising(150, 1.5, -0.01, 0.002), 1000))
    found: list[Finding] = []
    for step, value in [*noise, *falling]:
        found += forecast.observe(Sample("r", "b", "T", None, step, ENTROPY_NAME, value, 1.0 * step, step))
    assert any(one.active and one.step is not None and one.step > 1000 for one in found)
