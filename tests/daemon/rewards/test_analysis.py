"""Planted faults are each found near their onset, healthy runs of all kinds of scorers are left in peace."""

from __future__ import annotations

import dataclasses
import math
import random
from dataclasses import replace

import pytest

from rewarding import FAULTS, GROUP, MODEL, ONSET, PROMPTS, SCORERS, STEPS, VERIFIER, Fault, Scorer, run
from rlhfd_alerts.finding import Severity
from rlhfd_daemon.rewards import steps as step_rows
from rlhfd_daemon.rewards.analysis import Analysis
from rlhfd_daemon.rewards.issues import KINDS, Issue, merged
from rlhfd_daemon.rewards.sample import Sample
from rlhfd_daemon.rewards.window import Settings

ESTIMATORS = ("dr_grpo", "rloo", "group_norm")
WINDOW_STEPS = 512 // (GROUP * PROMPTS)


def analysed(samples: list[Sample], settings: Settings | None = None) -> list[Issue]:
    analysis = Analysis(settings)
    for sample in samples:
        analysis.add(sample)
    analysis.finish()
    return analysis.issues()


def bad(issues: list[Issue]) -> dict[str, Issue]:
    return {issue.kind: issue for issue in issues if issue.severity is not Severity.INFO}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: scorer.name)
def test_a_healthy_run_is_left_in_peace(scorer: Scorer, seed: int) -> None:
    assert bad(analysed(list(run(scorer, 100 + seed, estimator=ESTIMATORS[seed])))) == {}


@pytest.mark.parametrize(("kind", "scorer", "fault", "severity"), FAULTS, ids=lambda one: getattr(one, "name", None))
def test_a_planted_fault_is_found_within_two_windows(
    kind: str, scorer: Scorer, fault: Fault, severity: Severity
) -> None:
    found = bad(analysed(list(run(scorer, 7, fault)), Settings(deadline_seconds=2.0)))
    assert kind in found
    assert found[kind].severity is severity
    if kind not in ("reordered", "unstable"):  # these are of the run as a whole
        assert ONSET - WINDOW_STEPS <= (found[kind].first_step or 0) <= ONSET + 2 * WINDOW_STEPS
        assert found[kind].last_step == STEPS - 1 or kind in ("shifted", "spread_changed", "outliers")


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [("advantage_reversed", -1.0), ("advantage_weak", 0.0)],
)
def test_advantages_against_their_estimator_are_found(kind: str, wrong: float) -> None:
    rng = random.Random(5)
    samples = [
        replace(one, advantage=(one.advantage or 0) * wrong + (0.0 if wrong else rng.gauss(0, 1)))
        for one in run(MODEL, 5)
    ]
    assert kind in bad(analysed(samples, Settings(estimator="dr_grpo")))
    assert not [one for one in bad(analysed(samples)) if one.startswith("advantage")]  # unknown how they were made


def test_the_kl_that_the_reward_pays_for_is_found() -> None:
    rng = random.Random(6)
    samples = []
    for one in run(MODEL, 6):
        kl = rng.gauss(0, 0.1)
        samples.append(replace(one, kl=kl, reward=(one.reward or 0) + 8 * kl, advantage=None))
    assert "follows_kl" in bad(analysed(samples))


def test_a_scorer_that_changes_its_mind_is_inconsistent() -> None:
    samples = list(run(MODEL, 8))
    again = [replace(one, reward=(one.reward or 0) + random.Random(at).gauss(0, 0.8))
             for at, one in enumerate(samples[:512])]  # fmt: skip
    assert "inconsistent" in bad(analysed([*samples, *again]))
    assert "inconsistent" not in bad(analysed([*samples, *samples[:512]]))


@pytest.mark.parametrize("falls", [False, True])
def test_an_evaluation_that_falls_while_the_reward_rises_is_over_optimisation(falls: bool) -> None:
    samples = []
    for one in run(MODEL, 9):
        kl = 0.02 * ((one.step or 0) + 1) ** 2
        d = math.sqrt(kl)
        gold = d * (0.9 - 0.6 * math.log(d)) if falls else d * (2.5 - 0.6 * math.log(d))
        samples.append(replace(one, kl=kl, eval_reward=gold + random.Random(one.step).gauss(0, 0.02), advantage=None))
    assert ("over_optimised" in bad(analysed(samples))) is falls


def test_evaluations_on_lines_of_their_own_are_no_missing_rewards() -> None:
    samples = list(run(VERIFIER, 10))
    evaluations = [Sample(step=step, eval_reward=0.5 + step / 100) for step in range(STEPS)]
    assert bad(analysed([*samples, *evaluations])) == {}


@pytest.mark.parametrize("count", [0, 1, 31, 100, 700, 1023, 1024, 1025])
def test_a_short_file_is_judged_in_windows_of_its_own(count: int) -> None:
    samples = list(run(MODEL, 11))[:count]
    assert bad(analysed(samples)) == {}
    if count >= 700:
        half = count // 2
        halved = [*samples[:half], *(replace(one, reward=one.reward * 20) for one in samples[half:] if one.reward)]
        assert "spread_changed" in bad(analysed(halved))
    if count:
        assert "missing" in bad(analysed([replace(one, reward=None) for one in samples]))


def test_samples_without_steps_and_prompts_are_judged_too() -> None:
    bare = [Sample(reward=one.reward, length=one.length) for one in run(MODEL, 12)]
    assert bad(analysed(bare)) == {}
    longer = [
        replace(one, reward=(one.length or 0) / 50 + random.Random(at).gauss(0, 1)) for at, one in enumerate(bare)
    ]
    assert "follows_length" in bad(analysed(longer))


def test_memory_does_not_grow_with_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_rows, "MAX_ROWS", 16)
    analysis = Analysis(Settings(window=64))
    for sample in run(MODEL, 13):
        analysis.add(sample)
        assert len(analysis._recent) <= 160
    analysis.finish()
    assert len(analysis.overview.steps.rows) <= 17
    assert analysis.overview.steps.thinned == 4


def test_dead_prompts_are_those_that_never_varied() -> None:
    analysis = Analysis()
    for step in range(3):
        for prompt, rewards in {"dead": [0.0, 0.0], "late": [0.0, float(step == 2)], "alive": [0.0, 1.0]}.items():
            for reward in rewards:
                analysis.add(Sample(step=step, prompt=prompt, reward=reward))
    analysis.finish()
    assert analysis.overview.dead_prompts() == {"dead": 3}


def test_stretches_that_touch_are_one_issue_with_the_worst_of_them() -> None:
    one = Issue("late", Severity.WARNING, "a", 0.1, 0.0, 0, 9, 0, 1)
    issues = [
        one,
        replace(one, first=10, last=19, value=0.5, summary="b", last_step=3),
        replace(one, first=40, last=49),
    ]
    found = merged(reversed(issues))
    assert [(one.first, one.last, one.summary, one.last_step) for one in found] == [(0, 19, "b", 3), (40, 49, "a", 1)]


def test_every_kind_of_issue_says_what_to_do() -> None:
    for kind in KINDS.values():
        assert all(dataclasses.astuple(kind))
