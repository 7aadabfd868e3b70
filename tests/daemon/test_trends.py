"""Statistics per epoch or hundred steps: that they are right, what counts as a trend, and how much is kept."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rlhfd_daemon import trends_report
from rlhfd_daemon.analyzers.moments import Axis, Direction, Moments
from rlhfd_daemon.analyzers.trends import MAX_WINDOWS, WHOLE, Trend, Trends
from rlhfd_daemon.cli import app
from rlhfd_daemon.frame import VERSION, Frame
from rlhfd_daemon.sample import Sample

NAN, INF = math.nan, math.inf


DIRECTIONS: tuple[Direction, ...] = ("increasing", "decreasing", "stable")


def moments(values: list[float], first: int = 1) -> Moments:
    found = Moments.of(Axis(range(first, first + len(values))), values)
    assert found is not None
    return found


def autoregressive(count: int, alike: float, seed: int, slope: float = 0.0) -> list[float]:
    source, value, values = random.Random(seed), 0.0, []
    for step in range(count):
        value = alike * value + source.gauss(0, 1)
        values.append(value + slope * step)
    return values


VALUES = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=60)


@given(VALUES)
def test_moments_are_what_the_statistics_module_says(values: list[float]) -> None:
    found, steps = moments(values), range(1, len(values) + 1)
    spread = max(values) - min(values) + 1e-6
    assert (found.count, found.low, found.high) == (len(values), min(values), max(values))
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-9 * 1e6)
    assert found.std == pytest.approx(statistics.pstdev(values), abs=1e-6 * spread + 1e-9)
    assert found.slope == pytest.approx(statistics.linear_regression(steps, values).slope, abs=1e-6 * spread)


@given(VALUES, st.lists(st.integers(1, 59), max_size=4))
def test_moments_of_parts_add_up_to_those_of_the_whole(values: list[float], cuts: list[int]) -> None:
    bounds = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    parts = [moments(values[a:b], a + 1) for a, b in pairwise(bounds)]
    whole, summed = moments(values), reduce(add, parts)
    tolerance = 1e-6 * (max(values) - min(values) + 1e-6) ** 2 * len(values) ** 2
    for name in ("count", "first_step", "last_step", "first", "last", "low", "high", "first_rise", "last_rise"):
        assert getattr(summed, name) == getattr(whole, name)
    for name in ("mean_step", "xx", "xy", "yy", "rises", "echoes"):
        assert getattr(summed, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=tolerance), name


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_a_curve_is_found_though_it_is_no_line(noise: float) -> None:
    curves = [
        [6 * math.exp(-i / 20) + noise * value for i, value in enumerate(autoregressive(100, 0.2, seed))]
        for seed in range(100)
    ]
    assert [moments(values).direction for values in curves].count("decreasing") >= 95


@pytest.mark.parametrize("count", [20, 50, 100])
@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
def test_noise_without_a_trend_is_stable_also_where_neighbours_are_alike(alike: float, count: int) -> None:
    directions = [moments(autoregressive(count, alike, seed)).direction for seed in range(300)]
    assert directions.count("stable") >= 0.98 * 300


def test_small_trends_are_found_where_there_is_enough_of_them() -> None:
    for slope, direction in zip((0.07, -0.07), DIRECTIONS, strict=False):
        found = [moments(autoregressive(100, 0.3, seed, slope)).direction for seed in range(100)]
        assert found.count(direction) >= 95


@pytest.mark.parametrize(
    ("values", "direction"),
    [
        ([1.0] * 50, "stable"),
        ([float(i) for i in range(50)], "increasing"),
        ([-1e-9 * i for i in range(50)], "decreasing"),
        ([1.0, 2.0, 3.0], "stable"),  # too few to say
        ([1e300, -1e300] * 20, "stable"),
        ([math.exp(-i / 20) for i in range(100)], "decreasing"),  # no line, but down all the way
        ([0.0] * 25 + [1.0] * 25, "stable"),  # one step up
    ],
)
def test_directions_of_plain_series(values: list[float], direction: str) -> None:
    assert moments(values).direction == direction


def test_values_that_are_not_finite_are_left_out() -> None:
    found = Moments.of(Axis([1, 2, 3, 4]), [1.0, NAN, INF, 3.0])
    assert found is not None
    assert (found.count, found.mean, found.first_step, found.last_step) == (2, 2.0, 1, 4)
    assert Moments.of(Axis([1, 2]), [NAN, -INF]) is None
    assert Moments.of(Axis([]), []) is None


def frame(step: int | None, metrics: Mapping[str, float], event: str | None = None, role: str = "PPOTrainer") -> Frame:
    return Frame(
        v=VERSION, run="r", boot="b", role=role, stream="s", pid=1, seq=1, time_ns=0, mono_ns=0,
        kind="metrics" if event is None else "event", rank=None, step=step, metrics=dict(metrics), event=event,
    )  # fmt: skip


def take(trends: Trends, one: Frame) -> None:
    samples = [
        Sample(one.run, one.boot, one.role, one.rank, one.step, name, value, 0.0, 1)
        for name, value in one.metrics.items()
    ]
    trends.take(one, samples)


def trained(steps: Iterable[int], value: Callable[[int], float], trends: Trends | None = None) -> Trends:
    trends = trends or Trends()
    for step in steps:
        take(trends, frame(step, {"train/kl": value(step), "train/loss": 1.0}))
    return trends


def of(trends: Trends, metric: str = "train/kl") -> list[Trend]:
    return [trend for trend in trends.table("r", "b") if trend.metric == metric]


def test_every_hundred_steps_are_a_window_and_the_whole_run_comes_last() -> None:
    table = of(trained(range(1, 251), lambda step: step / 10))
    assert [(one.window, one.first_step, one.last_step, one.count) for one in table] == [
        ("steps 1-100", 1, 100, 100), ("steps 101-200", 101, 200, 100), ("steps 201-250", 201, 250, 50),
        (WHOLE, 1, 250, 250),
    ]  # fmt: skip
    first, whole = table[0], table[-1]
    assert (first.min, first.max, first.mean, first.slope) == pytest.approx((0.1, 10.0, 5.05, 0.1))
    assert (whole.mean, whole.slope) == pytest.approx((12.55, 0.1))
    assert whole.direction == "increasing"
    assert (whole.role, whole.rank, whole.run) == ("PPOTrainer", None, "r")
    assert {one.direction for one in of(trained(range(1, 251), lambda step: 1.0))} == {"stable"}


def test_a_table_may_be_asked_for_at_any_time() -> None:
    asked = Trends()
    for step in range(1, 260):
        trained([step], lambda step: step / 7, asked)
        asked.table("r", "b")
    told = of(trained(range(1, 260), lambda step: step / 7))
    for one, other in zip(of(asked), told, strict=True):
        assert (one.window, one.count, one.min, one.max, one.direction) == (
            other.window, other.count, other.min, other.max, other.direction,
        )  # fmt: skip
        assert (one.mean, one.std, one.slope) == pytest.approx((other.mean, other.std, other.slope))


def test_metrics_that_come_at_steps_of_their_own_are_counted_at_these() -> None:
    trends = Trends()
    for step in range(1, 51):
        take(trends, frame(step, {"odd" if step % 2 else "even": float(step)}))
    spans = {one.metric: (one.first_step, one.last_step, one.count) for one in trends.table("r", "b")}
    assert spans == {"odd": (1, 49, 25), "even": (2, 50, 25)}


def test_epochs_take_the_place_of_windows_where_the_run_says_them() -> None:
    trends = Trends()
    for step in range(1, 91):
        take(trends, frame(step, {"train/kl": float(step), "epoch": step / 30}))
    assert [(one.window, one.first_step, one.last_step) for one in of(trends)] == [
        ("epoch 1", 1, 30), ("epoch 2", 31, 60), ("epoch 3", 61, 90), (WHOLE, 1, 90),
    ]  # fmt: skip
    assert of(trends, "epoch") == []


def test_epochs_may_be_told_by_whoever_reads_the_log() -> None:
    trends = Trends()
    for step in range(1, 41):
        trends.epoch = step / 20 if step % 3 else None  # not in every row
        take(trends, frame(step, {"train/kl": float(step)}))
    assert [one.window for one in of(trends)] == ["epoch 1", "epoch 2", WHOLE]


def test_a_long_run_has_few_windows_that_cover_it_and_lose_nothing() -> None:
    table = of(trained(range(1, 20_001), lambda step: float(step)))
    windows = table[:-1]
    assert MAX_WINDOWS / 2 <= len(windows) <= MAX_WINDOWS
    assert [one.first_step for one in windows[1:]] == [one.last_step + 1 for one in windows[:-1]]
    assert table[-1].count == sum(one.count for one in windows) == 20_000
    assert table[-1].std == pytest.approx(statistics.pstdev(range(1, 20_001)))


def test_a_resumed_run_goes_on_in_the_window_of_its_step() -> None:
    table = of(trained([*range(1, 160), *range(130, 220)], lambda step: float(step)))
    assert [(one.window, one.count) for one in table] == [
        ("steps 1-100", 100), ("steps 101-200", 130), ("steps 201-219", 19), (WHOLE, 249),
    ]  # fmt: skip


def test_events_pollers_and_frames_without_a_step_are_left_out_and_processes_kept_apart() -> None:
    trends = Trends()
    take(trends, frame(1, {"phase/eval/seconds": 1.0}, event="phase_end"))
    take(trends, frame(1, {"gpu/0/power_watts": 1.0}, role="rlhfd"))
    take(trends, frame(None, {"train/kl": 1.0}))
    assert not trends.launches
    take(trends, frame(1, {"train/kl": 1.0}))
    take(trends, frame(1, {"train/kl": 2.0}, role="Critic"))
    assert [(one.role, one.mean) for one in of(trends)] == [("PPOTrainer", 1.0), ("Critic", 2.0)]
    assert trends.launches == (("r", "b"),)
    trends.forget("r", "b")
    assert not trends.launches
    assert of(trends) == []


@given(
    st.lists(
        st.tuples(st.integers(-100, 400), st.dictionaries(st.sampled_from(["a", "b"]), st.floats()), st.floats()),
        max_size=60,
    )
)
@settings(deadline=None)
def test_every_finite_value_is_counted_once_whatever_the_steps(
    rows: list[tuple[int, dict[str, float], float]],
) -> None:
    trends = Trends()
    for step, metrics, epoch in rows:
        trends.epoch = epoch
        take(trends, frame(step, metrics))
    for name in ("a", "b"):
        windows = [one for one in of(trends, name) if one.window != WHOLE]
        finite = [metrics[name] for _, metrics, _ in rows if name in metrics and math.isfinite(metrics[name])]
        assert sum(one.count for one in windows) == len(finite)
        if finite:
            assert min(one.min for one in windows) == min(finite)


def checked(path: Path, *options: str) -> list[str]:
    result = CliRunner().invoke(app, ["check", str(path), *options])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def log_of(folder: Path, count: int, epochs: int | None = None) -> Path:
    rows = [
        {"step": step, "train/kl": 0.1 + step / 1000, **({} if epochs is None else {"epoch": step * epochs / count})}
        for step in range(1, count + 1)
    ]
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rlhfd_check_prints_the_trends_where_they_are_asked_for(tmp_path: Path) -> None:
    path = log_of(tmp_path, 120)
    plain = checked(path)
    lines = checked(path, "--trends")
    assert lines[0].split() == ["mean", "std", "min", "max", "per", "step"]
    assert lines[1].split() == [
        "train/kl",
        "steps",
        "1-100",
        "0.1505",
        "0.02887",
        "0.101",
        "0.2",
        "0.001",
        "↗",
        "increasing",
    ]
    assert not any("increasing" in line for line in plain)
    assert lines[-1] == plain[-1]
    assert lines[3].split()[:2] == ["whole", "run"]
    assert lines[-1].startswith("120 steps of 1 metrics")


def test_rlhfd_check_gives_each_trend_as_an_object_after_the_alerts(tmp_path: Path) -> None:
    path = log_of(tmp_path, 60, epochs=2)
    assert checked(path, "--json") == []
    objects = [json.loads(line) for line in checked(path, "--trends", "--json")]
    assert [one["window"] for one in objects] == ["epoch 1", "epoch 2", WHOLE]
    assert objects[0] == {
        "kind": "trend", "run": "log.jsonl", "metric": "train/kl", "role": "PPOTrainer", "rank": 0, "window": "epoch 1",
        "first_step": 1, "last_step": 30, "count": 30, "mean": pytest.approx(0.1155),
        "std": pytest.approx(0.008655, 1e-3), "min": 0.101, "max": 0.13, "slope": pytest.approx(0.001),
        "direction": "increasing",
    }  # fmt: skip


def test_the_table_shows_the_newest_windows_and_whose_a_metric_is_where_there_are_several() -> None:
    trends = trained(range(1, 801), lambda step: 1.0)
    table = [line.plain for line in trends_report.lines(trends)]
    assert [line.split()[-8] for line in table[1:4]] == ["501-600", "601-700", "701-800"]
    take(trends, frame(1, {"train/\x1b[31m": 2.0}, role="Critic"))
    table = [line.plain for line in trends_report.lines(trends)]
    assert table[1].startswith("train/kl (PPOTrainer)")
    assert table[-2].startswith("train/ [31m (Critic)")
    assert list(trends_report.lines(Trends())) == []
