"""Real PPO runs of OpenRLHF whose reward goes wrong: the right family tells it in time, and no other reward is blamed.

The recordings are made by `tests/openrlhf/make_reward_runs.py`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from openrlhf.make_reward_runs import FAULT_STEP, RUNS
from rlhfd_alerts.alert import AlertState
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.check import Check
from rlhfd_daemon.config import AnalyzersConfig
from rlhfd_daemon.frame import decode
from rlhfd_daemon.segment import Record
from rlhfd_daemon.traces.frames import records

RECORDINGS = Path(__file__).parents[1] / "fixtures" / "reward_runs"
ABRUPT, GRADUAL = 10, 30  # steps
ABOUT_REWARDS = {"reward", "hacking", "advantage", "nonfinite"}
# By fault: families of which one must tell it, and within how many steps. The bonuses work as the policy finds them.
FAULTS: dict[str, tuple[set[str], int]] = {
    "const": ({"reward"}, ABRUPT),
    "noise": ({"reward"}, ABRUPT),
    "flip": ({"reward"}, ABRUPT),
    "some_nan": ({"nonfinite"}, ABRUPT),
    "length": ({"hacking"}, GRADUAL),
    "repetition": ({"hacking"}, GRADUAL),
    "slower": ({"reward"}, ABRUPT),
    "changed": ({"reward"}, ABRUPT),
    "scaled": ({"reward"}, ABRUPT),
}
STEP_ENDS = "train/rollout/reward_mean"
HEALTHY = sorted(name for name, run in RUNS.items() if run.reward == "healthy")


@cache
def begun(name: str) -> tuple[Finding, ...]:
    """What fires in a recording, warnings and graver, in order."""

    def damaged(where: object) -> None:
        raise AssertionError(where)

    check = Check(RECORDINGS / f"{name}.log.xz", AnalyzersConfig(), damaged)
    firing = [one.alert.finding for one in check.transitions() if one.alert.state is AlertState.FIRING]
    return tuple(one for one in firing if one.severity is not Severity.INFO)


@cache
def steps(name: str) -> tuple[tuple[float, int], ...]:
    """When each step was logged (Unix seconds), and its number."""
    frames = [(record.received_ns / 1e9, decode(record.payload)) for record in records(RECORDINGS / f"{name}.log.xz")
              if isinstance(record, Record)]  # fmt: skip
    return tuple((at, frame.step or 0) for at, frame in frames if STEP_ENDS in frame.metrics)


def step_of(name: str, finding: Finding) -> int:
    """The step at which it was told; where it names none, the one that was under way."""
    if finding.step is not None:
        return finding.step
    return 1 + max((step for at, step in steps(name) if at <= finding.time), default=0)


def test_each_run_has_a_recording_and_each_fault_its_families() -> None:
    assert {path.name.partition(".")[0] for path in RECORDINGS.glob("*.log.xz")} == set(RUNS)
    assert set(FAULTS) | set(HEALTHY) == set(RUNS)


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_the_reward_of_a_healthy_run(name: str) -> None:
    assert [(one.rule, one.step) for one in begun(name) if one.family in ABOUT_REWARDS] == []


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_said_of_the_reward_before_the_fault(name: str) -> None:
    told = [(one.rule, step_of(name, one)) for one in begun(name) if one.family in ABOUT_REWARDS]
    # Samples are made while the step before is logged.
    assert [(rule, step) for rule, step in told if step < FAULT_STEP - 1] == []


@pytest.mark.parametrize("name", FAULTS)
def test_the_right_family_tells_a_fault_in_time(name: str) -> None:
    families, within = FAULTS[name]
    told = [step_of(name, one) for one in begun(name) if one.family in families]
    assert told
    assert FAULT_STEP - 1 <= min(told) <= FAULT_STEP + within
