"""The analyzer of single answers' rewards: planted faults begin within ten steps and end, health is left alone."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarding import FAULTS, MODEL, ONSET, SCORERS, STEPS, VERIFIER, Fault, Scorer, run
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers import reward_samples
from rlhfd_daemon.analyzers.reward_samples import SUBJECTS, RewardSamples
from rlhfd_daemon.config_analyzers import RewardConfig
from rlhfd_daemon.rewards.issues import KINDS
from rlhfd_daemon.rewards.sample import Sample as Scored
from rlhfd_daemon.rewards.summary import EVENT
from rlhfd_daemon.sample import Happening, Sample
from rlhfd_emitter.signals.reward_summary import summed

WITHIN_STEPS = 10
# Of the kinds that a file shows, those that the analyzer leaves to others: rules on metrics and on reward calls know
# them at once, and labels and raw rewards are not at hand in a run.
OTHERS = {"dead_groups", "missing", "failed", "late", "label_agreement_lost", "reordered"}


def told(samples: Iterable[Scored], estimator: str = "dr_grpo", clip: list[float] | None = None) -> Iterator[Happening]:
    """One event a step, as the emitter sends them."""
    for step, group in groupby(samples, key=lambda one: one.step):
        rows = list(group)
        known = [one for one in rows if one.reward is not None and math.isfinite(one.reward)]
        names = {
            "reward": "reward",
            "length": "length",
            "repetition": "repetition",
            "kl": "kl",
            "advantage": "advantage",
        }
        table: dict[str, list[Any]] = {ours: [getattr(one, ours) for one in known] for ours in names}
        table["prompt_id"] = [one.prompt for one in known]
        table["response_id"] = [one.response for one in known]
        fields: dict[str, Any] = {"samples": len(rows), "missing": len(rows) - len(known), "clip": clip}
        fields.update(summed(table, estimator, False))
        yield event(step, fields)


def event(step: int | None, fields: dict[str, Any], run: str = "r") -> Happening:
    return Happening(run, "b", "PPOTrainer", None, step, EVENT, fields, float(step or 0), 1)


def found(events: Iterable[Happening], config: RewardConfig | None = None) -> list[Finding]:
    analyzer = RewardSamples(config or RewardConfig())
    return [finding for one in events for finding in analyzer.happened(one)]


def begun(findings: Iterable[Finding]) -> dict[str, Finding]:
    """By kind, the first that began, without those of information only."""
    graver = [one for one in findings if one.active and one.severity is not Severity.INFO]
    return {one.rule.removeprefix("samples_"): one for one in reversed(graver)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: scorer.name)
def test_a_healthy_run_is_left_in_peace(scorer: Scorer, seed: int) -> None:
    estimator = ("dr_grpo", "rloo", "group_norm")[seed]
    assert found(told(run(scorer, 200 + seed, estimator=estimator), estimator)) == []


@pytest.mark.parametrize(
    ("kind", "scorer", "fault", "severity"),
    [one for one in FAULTS if one[0] not in OTHERS],
    ids=lambda one: getattr(one, "name", None),
)
def test_a_planted_fault_begins_within_ten_steps(kind: str, scorer: Scorer, fault: Fault, severity: Severity) -> None:
    first = begun(found(told(run(scorer, 11, fault))))[kind]
    assert ONSET <= (first.step or 0) <= ONSET + (WITHIN_STEPS if kind != "unstable" else STEPS)
    assert first.severity is severity
    assert first.family == SUBJECTS[kind][0]
    assert first.remedy == KINDS[kind].remedy


def test_rewards_at_the_clip_range_are_told_with_that_range() -> None:
    samples = (replace(one, reward=5 * (one.reward or 0.0)) for one in run(MODEL, 12))
    finding = begun(found(told(samples, clip=[-4.0, 4.0])))["saturated"]
    assert "clip range" in finding.summary


@pytest.mark.parametrize(("kind", "wrong"), [("advantage_reversed", -1.0), ("advantage_weak", 0.0)])
def test_advantages_against_their_estimator_are_found(kind: str, wrong: float) -> None:
    rng = random.Random(5)
    samples = (
        replace(one, advantage=(one.advantage or 0) * wrong + (0.0 if wrong else rng.gauss(0, 1)))
        for one in run(MODEL, 5)
    )
    assert begun(found(told(samples)))[kind].family == "advantage"


def test_answers_that_come_twice_and_get_two_scores_are_inconsistent() -> None:
    def samples() -> Iterator[Scored]:
        for one in run(MODEL, 8):
            yield one
            if (one.response or "0") < "4":
                yield replace(
                    one, reward=(one.reward or 0.0) + random.Random(one.response).gauss(0, 0.8), advantage=None
                )

    assert "inconsistent" in begun(found(told(samples())))


def test_what_is_mended_ends_after_some_steps() -> None:
    mended = 30

    def fault(sample: Scored, rng: random.Random) -> Scored:
        return sample if (sample.step or 0) >= mended else replace(sample, reward=(sample.length or 0.0) / 100)

    findings = [
        one for one in found(told(run(MODEL, 3, fault)), RewardConfig(clear_after=5)) if one.rule.endswith("length")
    ]
    assert [(one.active, one.rule) for one in findings] == [
        (True, "samples_follows_length"),
        (False, "samples_follows_length"),
    ]
    assert mended < (findings[1].step or 0) <= mended + 5 + 2


def test_what_becomes_graver_is_told_again_and_what_stays_is_not() -> None:
    def fault(sample: Scored, rng: random.Random) -> Scored:
        weight = 0.4 if (sample.step or 0) < 30 else 4.0
        return replace(sample, reward=(sample.reward or 0.0) + weight * ((sample.length or 0.0) - 300) / 40)

    findings = [one for one in found(told(run(MODEL, 3, fault))) if one.rule == "samples_follows_length"]
    assert [one.severity for one in findings] == [Severity.WARNING, Severity.CRITICAL]


@pytest.mark.parametrize("falls", [False, True])
def test_an_evaluation_past_its_peak_is_over_optimisation(falls: bool) -> None:
    analyzer = RewardSamples(RewardConfig())
    findings: list[Finding] = []
    for step in range(40):
        distance = 0.15 * (step + 1)
        gold = distance * (0.9 - 0.6 * math.log(distance)) if falls else distance * (2.5 - 0.6 * math.log(distance))
        noise = random.Random(step).gauss(0, 0.02)
        values = {"train/kl": distance**2, "train/rollout/reward_mean": step / 10, "eval/eval_math_pass1": gold + noise}
        for name, value in values.items():
            sample = Sample("r", "b", "PPOTrainer", None, step, name, value, float(step), 1)
            assert analyzer.watch(sample) is not None
            findings += analyzer.observe(sample)
    assert [(one.rule, one.severity) for one in findings] == (
        [("samples_over_optimised", Severity.CRITICAL)] if falls else []
    )


def test_other_metrics_are_not_watched() -> None:
    sample = Sample("r", "b", "PPOTrainer", None, 1, "train/policy_loss", 0.0, 0.0, 1)
    assert RewardSamples(RewardConfig()).watch(sample) is None


def test_what_is_no_summary_is_left_alone() -> None:
    broken: list[dict[str, Any]] = [{}, {"samples": "x"}, {"samples": 3, "values": [math.inf], "counts": [3]}]
    assert found(event(step, fields) for step, fields in enumerate(broken)) == []


numbers = st.floats() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0.0, 1.0, 300.0])
lists = st.lists(numbers, max_size=8)
small = st.floats(-1e15, 1e15) | st.sampled_from([0.0, -1.0, 1.0, 9.0, 300.0])
sums = st.lists(small, min_size=5, max_size=8)
summaries = st.fixed_dictionaries(
    {
        "samples": st.integers(0, 2**40),
        "values": st.just([0.0, 1.0]) | lists,
        "counts": st.just([200, 200]) | st.lists(st.integers(0, 2**62), max_size=8),
    },
    optional={
        "missing": st.integers(0, 2**62),
        "clip": st.none() | st.lists(numbers, min_size=2, max_size=2),
        "length": st.lists(sums, max_size=2),
        "kl": st.lists(sums, max_size=2),
        "estimator": st.sampled_from(["gae", "group_norm", "x"]),
        "advantage": lists | st.lists(small, min_size=5, max_size=8),
        "off_centre": numbers,
        "step_mean": lists | st.lists(small, min_size=3, max_size=3),
        "copies": lists | st.lists(small, min_size=5, max_size=5),
    },
)


@settings(max_examples=200)
@given(st.lists(summaries, min_size=1, max_size=12))
def test_whatever_a_summary_says_the_analyzer_goes_on(many: list[dict[str, Any]]) -> None:
    found(event(step, fields) for step, fields in enumerate(many))


@pytest.mark.parametrize(
    "odd",
    [
        {"copies": [9.0, 1.0, 1.0, 5.0, 0.0]},
        {"copies": [9.0, 1.0, 1.0, -5.0, -3.0]},
        {"step_mean": [0.5, 0.0, 0.0]},
        {"step_mean": [0.5, -1.0, 1e14]},
        {"length": [[400.0, 1.0, -1.0, 5.0, 1.0], [400.0, 900.0, 1.0, 5.0, 1.0]]},
        {"estimator": "gae", "advantage": [400.0, 1.0, 1.0, 9.0, 1.0]},
        {"estimator": "rloo", "advantage": [400.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], "off_centre": 1e300},
    ],
)
def test_sums_that_cannot_be_stop_nothing(odd: dict[str, Any]) -> None:
    found(event(step, {"samples": 400, "values": [0.0, 1.0], "counts": [200, 200], **odd}) for step in range(12))


def test_runs_are_kept_apart_forgotten_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_samples, "MAX_RUNS", 2)
    analyzer = RewardSamples(RewardConfig())
    constant = {"samples": 300, "values": [1.0], "counts": [300]}
    names = [[finding.run for finding in analyzer.happened(event(1, constant, name))] for name in ("a", "b", "c")]
    assert names == [["a"], ["b"], []]
    analyzer.forget("a", "b")
    assert [finding.run for finding in analyzer.happened(event(1, constant, "c"))] == ["c"]


def test_one_small_step_says_nothing_yet() -> None:
    assert found(event(step, {"samples": 8, "values": [1.0], "counts": [8]}) for step in range(7)) == []


def test_a_verifier_that_pays_for_length_is_told_by_its_correlation() -> None:
    fault: Fault = lambda one, rng: replace(one, reward=float((one.length or 0.0) > 300))  # noqa: E731
    finding = begun(found(told(run(VERIFIER, 2, fault))))["follows_length"]
    assert finding.value is not None
    assert finding.value > 0.4
    assert finding.metric == "rlhfd/correlation/reward_length"
