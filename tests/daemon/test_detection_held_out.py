"""The made-up runs of the detection benchmark are what their labels say, and always the same."""

from __future__ import annotations

import math

import pytest

from detecting.logs import Log
from detecting.planted import KINDS, held_out
from detecting.scoring import GENERATED_FAULTS

RUNS = {log.label.name: log for log in held_out()}
ABRUPT = [log for log in RUNS.values() if log.label.name.endswith("over_1") and log.label.fault != "grad_spikes"]


def by_step(log: Log) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for row in log.rows():
        found.setdefault(row.step or 0, {}).update(row.metrics)
    return found


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)  # NaN is the same as NaN here


def test_there_is_every_fault_with_early_and_late_onsets_and_there_are_healthy_runs() -> None:
    assert set(KINDS) == set(GENERATED_FAULTS)
    labels = [log.label for log in RUNS.values()]
    assert {(label.fault, label.onset) for label in labels if label.fault} == {
        (fault, onset) for fault in KINDS for onset in (80, 400, 900)
    }
    assert sum(label.fault is None for label in labels) >= 20


@pytest.mark.parametrize("name", ["healthy_0", "kl_explosion_large_at_80_over_1"])
def test_a_run_is_the_same_every_time(name: str) -> None:
    (again,) = (log for log in held_out() if log.label.name == name)
    assert same(by_step(RUNS[name]), by_step(again))


def test_no_two_healthy_runs_are_the_same() -> None:
    firsts = {repr(by_step(RUNS[f"healthy_{number}"])[1]) for number in range(5)}
    assert len(firsts) == 5


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("healthy")][::4])
def test_a_healthy_run_has_all_its_steps_and_finite_values(name: str) -> None:
    steps = by_step(RUNS[name])
    assert list(steps) == list(range(1, RUNS[name].label.steps + 1))
    assert all(math.isfinite(value) for values in steps.values() for value in values.values())
    assert all(values.get("train/ppo_clip_ratio", 0.0) <= 1 for values in steps.values())


@pytest.mark.parametrize("log", ABRUPT, ids=lambda log: log.label.name)
def test_a_fault_acts_from_its_onset_on_and_not_before(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    onset, fault = log.label.onset, log.label.fault
    assert onset is not None
    assert fault is not None
    broken = by_step(log)
    idle = type(KINDS[fault])(lambda course, values, size: None, 0.1, 1, 2, KINDS[fault].is_abrupt)
    monkeypatch.setitem(KINDS, fault, idle)
    (unharmed,) = (one for one in held_out() if one.label.name == log.label.name)
    whole = by_step(unharmed)
    assert all(same(broken[step], whole[step]) for step in range(1, onset))
    assert not same(broken[onset], whole[onset])
