"""The catalogue: rows that can be fed, can fire, name what there is, and stay silent on healthy runs."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers import (
    absence,
    adaptive,
    forecast,
    forecast_steps,
    joint,
    non_finite,
    overdue,
    reward_samples,
)
from rlhfd_daemon.analyzers.families import FAMILIES
from rlhfd_daemon.analyzers.incident_table import INCIDENTS
from rlhfd_daemon.analyzers.rules import RuleAnalyzer
from rlhfd_daemon.config_rules import RulesConfig
from rlhfd_daemon.derive import SHARES, STEP_SECONDS
from rlhfd_daemon.metrics import lookup
from rlhfd_daemon.rules import Argument, Clause, Rule, Signal
from rlhfd_daemon.rules.catalogue import CATALOGUE, explains, find, url
from rlhfd_daemon.rules.catalogue.terms import flags_in
from rlhfd_daemon.rules.facts import Facts
from rlhfd_daemon.rules.histories import History
from rlhfd_daemon.rules.plan import Plans
from rlhfd_daemon.rules.rule import Fact
from rlhfd_daemon.rules.telling import PLACEHOLDERS, placeholders_in
from rlhfd_daemon.sample import Happening, Sample

TRACES = Path(__file__).parents[1] / "fixtures" / "traces"
EVALUATED = [rule for rule in CATALOGUE if rule.when]
DECIDED = [rule for rule in CATALOGUE if not rule.when]
BEFORE, AFTER = 340, 220  # values of a healthy and of a sick metric
ARGUMENT = 100.0
ENDLESS = 10**9


def by_id(rule: Rule) -> str:
    return rule.id


def test_there_are_more_than_sixty_rules_over_metrics_each_with_its_own_id() -> None:
    assert len(EVALUATED) >= 60
    assert len({rule.id for rule in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize("rule", CATALOGUE, ids=by_id)
def test_a_row_is_complete(rule: Rule) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+|spikes", rule.id)
    assert rule.family in FAMILIES
    assert bool(rule.when) != bool(rule.analyzer)
    assert rule.remedy.endswith(".")
    assert not rule.title.endswith(".")
    assert rule.source
    assert 1 <= rule.hold[0] <= rule.hold[1]
    assert rule.flags == flags_in(rule.remedy)
    assert find(rule.id) is rule
    assert url(rule.id) == f"docs/rules.md#{rule.id}"


@pytest.mark.parametrize("rule", EVALUATED, ids=by_id)
def test_a_rule_reads_metrics_that_there_are_and_fills_in_what_is_known(rule: Rule) -> None:
    read = [name for clause in rule.when for name in (clause.signal.metric, clause.signal.by) if name]
    assert [name for name in read if lookup(name) is None] == []
    assert set(placeholders_in(rule.summary)) <= set(PLACEHOLDERS)


def test_what_the_analyzers_of_their_own_decide_has_a_row_and_nothing_else_has() -> None:
    emitted = {
        non_finite.RULE, *adaptive.RULES, *joint.RULES, absence.MISSING, absence.FROZEN, overdue.RULE, forecast.MEMORY,
        forecast.DISK, forecast_steps.LENGTH, forecast_steps.ENTROPY,
        *map(reward_samples.rule_of, reward_samples.SUBJECTS), *(incident.rule for incident in INCIDENTS),
    }  # fmt: skip
    assert {rule.id for rule in DECIDED} == emitted


def test_what_a_rule_explains_exists_and_never_leads_back_to_it() -> None:
    for rule in CATALOGUE:
        seen: set[str] = set()
        ahead = list(explains(rule.id))
        while ahead:
            name = ahead.pop()
            assert find(name) is not None, f"{rule.id} explains {name}"
            assert name != rule.id, f"{rule.id} explains itself"
            ahead += [one for one in explains(name) if one not in seen]
            seen.update(explains(name))
    assert explains("no_such_rule") == ()


class Assumed:
    """What must be so for a rule to be looked at."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def take(self, event: Happening) -> bool:
        return False

    def see(self, sample: Sample) -> None: ...

    def get(self, fact: Fact) -> bool | None:
        return True if fact in (*self.rule.requires, *self.rule.strictly) else None

    def argument(self, names: tuple[str, ...]) -> float | None:
        return ARGUMENT


class Alone:
    """One series as the clauses of one metric see it."""

    def __init__(self, history: History) -> None:
        self.history = history

    def other(self, metric: str) -> History | None:
        return None

    def argument(self, argument: Argument) -> float | None:
        return ARGUMENT * argument.factor


def shapes() -> Iterator[list[float]]:
    """Courses that a metric may take, flat or rising first, then at another level, falling back, or rising on."""
    levels = (0.0, 1.0, 0.02, 0.06, 0.5, 0.1, 0.3, 0.9, 2.0, -1.0, -6.0, 8.0, 20.0, 100.0, 1e3, 1e4, 1e9, 1e10)
    for last, first in product(levels, (1.0, 0.01, 0.1, 10.0, 0.0, 5e9)):
        yield [first] * BEFORE + [last] * AFTER
    for first, last in ((0.1, 0.4), (1.0, 4.0), (0.01, 0.2), (10.0, 40.0), (0.2, 0.31)):
        yield [first + (last - first) * (i - BEFORE) / AFTER if i > BEFORE else first for i in range(BEFORE + AFTER)]
    yield [1.0 + i / BEFORE for i in range(BEFORE)] + [0.3] * AFTER
    yield [1.0 + i / BEFORE for i in range(BEFORE + AFTER)]


@lru_cache(maxsize=512)
def course(metric: str, clauses: tuple[Clause, ...]) -> list[float]:
    """A course at whose end all ``clauses`` over ``metric`` hold often enough; one of which they do not hold before,
    if there is one."""
    plain = Rule(id="x", title="", family="custom", severity=Severity.INFO, when=clauses, summary="", remedy="",
                 source="")  # fmt: skip
    plans = Plans([plain])
    reader, questions = plans.reader(metric), plans.plans[0].questions
    assert reader is not None
    found: list[list[float]] = []
    for values in shapes():
        scope = Alone(reader.history())
        held = [0, 0]
        for step, value in enumerate(values):
            scope.history.add(step, value)
            held[step >= BEFORE] += all(one.answer(scope) for one in questions)
            if held[0] and found:
                break
        if held[1] >= 25:
            found.append(values)
            if not held[0]:
                return values
    assert found, f"no course of {metric} fulfils {clauses}"
    return found[0]


def concrete(metric: str) -> str:
    return re.sub("<[a-z]+>", "0", metric)


@pytest.mark.parametrize("rule", EVALUATED, ids=by_id)
def test_a_rule_fires_on_what_it_is_made_for_and_not_before(rule: Rule) -> None:
    metrics = dict.fromkeys(clause.signal.metric for clause in rule.when)
    own = {
        metric: tuple(
            clause if not clause.signal.by else Clause(Signal(metric=metric), clause.operator, clause.limit)
            for clause in rule.when
            if clause.signal.metric == metric
        )
        for metric in metrics
    }
    courses = {metric: course(metric, clauses) for metric, clauses in own.items()}
    courses.update({clause.signal.by: [1.0] * (BEFORE + AFTER) for clause in rule.when if clause.signal.by})
    analyzer = RuleAnalyzer(RulesConfig(), [rule], lambda: Assumed(rule))
    found: list[Finding] = []
    for step in range(BEFORE + AFTER):
        for metric in (*(one for one in courses if one != rule.when[0].signal.metric), rule.when[0].signal.metric):
            name = concrete(metric)
            found += analyzer.observe(Sample("r", "b", "p", 0, step, name, courses[metric][step], float(step), 0))
    assert found, courses.keys()
    assert found[0].rule == rule.id
    assert found[0].family == rule.family
    assert found[0].active
    assert (found[0].step or 0) >= BEFORE
    assert "{" not in found[0].summary


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        yield from map(json.loads, lines)


def samples(path: Path) -> Iterator[Sample]:
    for row in rows(path):
        values = {name: float(value) for name, value in row.items() if name.startswith(("train/", "eval/"))}
        values.pop("train/dynamic_filtering_pass_rate", None)  # in a unit that needs the version
        total = values.get(STEP_SECONDS, math.nan)
        for name, phase in SHARES.items():
            if 0 < values.get(phase, 0.0) < total:
                values[name] = values[phase] / (total - values[phase])
        for name, value in values.items():
            yield Sample("r", "b", "PPOTrainer", None, row["step"], name, value, row["time"], 0)


def labels() -> Iterator[tuple[Path, int]]:
    """Every run of at most 400 steps, with the step of its fault, or the end of time."""
    for folder in ("generated", "openrlhf_cpu"):
        for label in json.loads((TRACES / folder / "labels.json").read_text()):
            if label["steps"] <= 400:
                yield TRACES / folder / label["file"], label["onset_step"] if label["fault"] else ENDLESS


@lru_cache(maxsize=64)
def found_in(path: Path) -> list[Finding]:
    """What the catalogue alone finds in a run."""
    analyzer = RuleAnalyzer(RulesConfig(), CATALOGUE, Facts)
    return [found for sample in samples(path) for found in analyzer.observe(sample) if found.active]


@pytest.mark.parametrize(
    ("path", "onset"),
    [one for one in labels() if one[1] == ENDLESS or (one[1] > 20 and one[0].parent.name == "openrlhf_cpu")],
    ids=lambda one: getattr(one, "stem", ""),
)
def test_no_rule_fires_on_what_is_healthy(path: Path, onset: int) -> None:
    assert [(one.rule, one.step) for one in found_in(path) if (one.step or 0) < onset] == []


@pytest.mark.parametrize(
    ("file", "rule", "steps"),
    [
        ("generated/clip_saturation_6180_grpo", "clip_ratio_high", 15),
        ("generated/kl_explosion_6000_grpo", "kl_high", 60),
        ("generated/length_explosion_6160_grpo", "length_doubled", 15),
        ("generated/length_explosion_6160_grpo", "truncated_often", 26),
        ("generated/reward_hacking_6060_grpo", "reward_kl_length_up", 30),
        ("generated/reward_hacking_6060_grpo", "reward_up_eval_down", 80),
        ("generated/reward_collapse_6041_ppo", "reward_collapse", 25),
        ("generated/value_divergence_6120_ppo", "critic_loss_rises", 70),
        ("generated/generation_slowdown_6200_grpo", "generation_share_high", 15),
        ("openrlhf_cpu/drop_sync_at_60", "weights_not_synced", 10),
        ("openrlhf_cpu/reward_const_at_61", "reward_constant", 8),
        ("openrlhf_cpu/lr_spike_at_60", "learning_rate_jumps", 2),
        ("openrlhf_cpu/lr_spike_at_60", "policy_step_large", 5),
        ("openrlhf_cpu/lr_too_high", "policy_step_large", 10),
        ("openrlhf_cpu/kl0_hack_repeat", "truncated_often", 25),
        ("openrlhf_cpu/kl_tiny_hack_length", "kl_high", 20),
        ("openrlhf_cpu/slow_gen_at_60", "generation_share_high", 6),
    ],
)  # fmt: skip
def test_a_fault_is_found_by_the_rule_that_is_made_for_it(file: str, rule: str, steps: int) -> None:
    path = TRACES / f"{file}.jsonl.gz"
    (onset,) = [onset for one, onset in labels() if one == path]
    found = [one.step for one in found_in(path) if one.rule == rule and one.severity is not Severity.INFO]
    assert found
    assert onset <= (found[0] or 0) <= onset + steps
