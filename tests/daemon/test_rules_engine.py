"""Rules at work: when they begin and end, what they read, what they leave alone, and what they say of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.rules import RuleAnalyzer
from rlhfd_daemon.config_rules import RuleOverride, RulesConfig
from rlhfd_daemon.rules import Argument, Clause, Rule, Signal
from rlhfd_daemon.rules.hold import Hold
from rlhfd_daemon.rules.rule import Aggregate, Fact, Reference
from rlhfd_daemon.sample import Happening, Sample

NAN, INF = math.nan, math.inf
KL = "train/kl"
Row = tuple["int | None", str, float]
HIGH = Clause(Signal(metric=KL), ">", 0.5)


class Known:
    """Facts and arguments that a test decides."""

    def __init__(self, facts: Mapping[str, bool] | None = None, arguments: Mapping[str, float] | None = None) -> None:
        self.facts = dict(facts or {})
        self.arguments = dict(arguments or {})
        self.seen: list[str] = []

    def take(self, event: Happening) -> bool:
        self.arguments.update(event.fields.get("args", {}))
        return True

    def see(self, sample: Sample) -> None:
        self.seen.append(sample.name)

    def get(self, fact: Fact) -> bool | None:
        return self.facts.get(fact)

    def argument(self, names: tuple[str, ...]) -> float | None:
        return next((self.arguments[name] for name in names if name in self.arguments), None)


def rule(*when: Clause, **changes: Any) -> Rule:
    fields: dict[str, Any] = {
        "id": "kl_high", "title": "KL is high", "family": "kl", "severity": Severity.WARNING,
        "summary": "{metric} is {value}, limit {limit}, at step {step}", "remedy": "lower it", "source": "a test",
    }  # fmt: skip
    return Rule(when=when or (HIGH,), **{**fields, **changes})


def analyzer(*rules: Rule, config: RulesConfig | None = None, **known: Any) -> RuleAnalyzer:
    return RuleAnalyzer(config or RulesConfig(), rules, lambda: Known(**known))


def sample(step: int | None, value: float, name: str = KL, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "run": "r", "boot": "b", "role": "trainer", "rank": 0, "step": step, "time": 1000.0 + (step or 0),
        "name": name, "value": value, "record_id": 1,
    }  # fmt: skip
    return Sample(**{**fields, **changes})


def feed(one: RuleAnalyzer, values: Iterable[float | None], first: int = 1, **changes: Any) -> list[Finding]:
    """What the values of KL lead to, one a step; ``None`` is a step without."""
    return [
        finding
        for step, value in enumerate(values, first)
        if value is not None
        for finding in one.observe(sample(step, value, **changes))
    ]


def together(one: RuleAnalyzer, series: Mapping[str, Sequence[float]]) -> list[Finding]:
    """What several metrics lead to; of each step those named first come first."""
    return [
        finding
        for step in range(1, max(map(len, series.values())) + 1)
        for name, values in series.items()
        if step <= len(values)
        for finding in one.observe(sample(step, values[step - 1], name))
    ]


def edges(found: Iterable[Finding]) -> list[tuple[int | None, bool]]:
    return [(finding.step, finding.active) for finding in found]


def test_a_threshold_begins_with_the_first_value_beyond_it_and_ends_with_the_first_within() -> None:
    found = feed(analyzer(rule()), [0.1, 0.5, 0.6, 0.7, 0.5, 0.9])
    assert edges(found) == [(3, True), (5, False), (6, True)]
    assert found[0].summary == "train/kl is 0.6, limit 0.5, at step 3"
    assert (found[0].rule, found[0].family, found[0].metric) == ("kl_high", "kl", KL)
    assert (found[0].severity, found[0].value, found[0].remedy) == (Severity.WARNING, 0.6, "lower it")
    assert (found[0].onset_step, found[0].onset_time) == (3, 1003.0)
    assert found[0].evidence == ((1, 0.1), (2, 0.5), (3, 0.6))
    assert found[0].labels == (("role", "trainer"), ("rank", "0"))


@pytest.mark.parametrize(
    ("operator", "true", "false"),
    [("<", 0.4, 0.5), ("<=", 0.5, 0.6), (">", 0.6, 0.5), (">=", 0.5, 0.4), ("==", 0.5, 0.6), ("!=", 0.6, 0.5)],
)
def test_every_operator_means_what_it_says(operator: Any, true: float, false: float) -> None:
    plain = rule(Clause(Signal(metric=KL), operator, 0.5))
    windowed = rule(Clause(Signal(metric=KL, take="max", over=1), operator, 0.5))
    for one in (plain, windowed):
        assert edges(feed(analyzer(one), [false, true])) == [(2, True)]


def test_k_of_n_begins_with_the_kth_true_look_and_is_dated_to_the_first_of_them() -> None:
    found = feed(analyzer(rule(hold=(3, 5))), [0.9, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.9, 0.9])
    assert edges(found) == [(9, True)]
    assert found[0].onset_step == 6


def test_k_of_n_ends_when_none_of_the_last_n_was_true_and_keep_makes_that_longer() -> None:
    values = [0.9, 0.9, *[0.1] * 9]
    assert edges(feed(analyzer(rule(hold=(2, 3))), values)) == [(2, True), (5, False)]
    assert edges(feed(analyzer(rule(hold=(2, 3), keep=6)), values)) == [(2, True), (8, False)]


def test_true_looks_count_within_n_however_long_the_end_is_waited_for() -> None:
    kept = rule(hold=(2, 3), keep=6, critical=2.0)
    assert feed(analyzer(kept), [0.9, 0.1, 0.1, 0.9, 0.1, 0.1, 0.9]) == []
    found = feed(analyzer(kept), [3.0, 0.1, 0.9, 0.1, 3.0, 0.1, 3.0])
    assert [(finding.step, finding.severity.value) for finding in found] == [(3, "warning"), (7, "critical")]


def test_onset_is_that_of_the_beginning_though_more_true_looks_follow() -> None:
    hold = Hold(2, 2)
    changes = [hold.look(answer, step, 10.0 * step) for step, answer in enumerate([True, True, False, True, True], 1)]
    assert changes == [None, "begins", None, None, None]
    assert hold.onset == (1, 10.0)


def test_too_few_true_looks_are_silent() -> None:
    assert feed(analyzer(rule(hold=(3, 5))), [0.9, 0.9, 0.1, 0.1, 0.1] * 10) == []


def test_a_value_that_is_no_number_neither_begins_nor_ends_anything_nor_blinds() -> None:
    one = analyzer(rule(hold=(2, 2)))
    found = feed(one, [0.9, NAN, 0.9, NAN, INF, 0.1, -INF, 0.1, NAN, 0.9, 0.9])
    assert edges(found) == [(3, True), (8, False), (11, True)]


def test_values_of_a_window_are_finite_ones() -> None:
    mean = rule(Clause(Signal(metric=KL, take="mean", over=3), ">", 0.5))
    assert edges(feed(analyzer(mean), [0.6, NAN, 0.6, INF, 0.6])) == [(5, True)]


@pytest.mark.parametrize(
    ("take", "values", "expected"),
    [
        ("mean", [9, 1, 2, 6], 3), ("median", [9, 1, 2, 6], 2), ("min", [0, 1, 2, 6], 1), ("max", [9, 1, 2, 6], 6),
        ("std", [9, 1, 1, 4], math.sqrt(2)), ("slope", [9, 1, 3, 5], 2),
    ],
)  # fmt: skip
def test_what_is_made_of_the_last_values(take: Any, values: list[float], expected: float) -> None:
    one = rule(Clause(Signal(metric=KL, take=take, over=3), "!=", 1e9), summary="{value}")
    found = feed(analyzer(one), map(float, values))
    assert edges(found) == [(3, True)]
    last = feed(analyzer(msgspec.structs.replace(one, after=3)), map(float, values))
    assert last[0].summary == f"{expected:.4g}"


def test_a_slope_is_per_step_and_per_value_where_there_are_no_steps() -> None:
    steep = rule(Clause(Signal(metric=KL, take="slope", over=3), ">", 0.9))
    one = analyzer(steep)
    assert [finding for step in (10, 20, 30) for finding in one.observe(sample(step, step / 10))] == []
    assert [finding.step for value in (1.0, 2.0, 3.0) for finding in analyzer(steep).observe(sample(None, value))] == []
    other = analyzer(steep)
    assert len([finding for value in (1.0, 2.0, 3.0) for finding in other.observe(sample(None, value))]) == 1


def test_a_drawdown_is_the_share_of_the_covered_range_that_was_lost() -> None:
    half = rule(Clause(Signal(metric=KL, take="drawdown", over=2), ">", 0.5), summary="{value}")
    rising, falling = [0.0, 0, 2, 4, 6, 8, 8], [6.0, 6, 4, 3, 3, 3]
    found = feed(analyzer(half), [*rising, *falling])
    assert [finding.summary for finding in found] == ["0.5625"]
    assert found[0].step == 11


def test_drawdowns_of_several_lengths_and_signs_are_each_of_their_own_means() -> None:
    values = [0.0, 8.0, 8.0, 8.0, 8.0, -2.0, -2.0, 6.0, 6.0, 6.0]
    kinds = {(2, False): "0.2", (4, False): "0.6667", (2, True): "0.3333", (4, True): "0.75"}
    rules = [
        rule(
            Clause(Signal(metric=KL, take="drawdown", over=over, absolute=is_absolute), ">", -1.0),
            id=f"{over}-{is_absolute}", after=9, summary="{value}",
        )
        for over, is_absolute in kinds
    ]  # fmt: skip
    assert [finding.summary for finding in feed(analyzer(*rules), values)] == list(kinds.values())


def test_a_baseline_leaves_out_the_window_that_is_compared_with_it() -> None:
    times = rule(
        Clause(Signal(metric=KL, take="mean", over=30, against="baseline"), ">", 4.9),
        summary="{value} times {baseline}",
    )
    found = feed(analyzer(times), [*[0.2] * 25, *[1.0] * 30])
    assert [(finding.step, finding.summary) for finding in found] == [(55, "5 times 0.2")]
    assert feed(analyzer(times), [*[0.2] * 19, *[1.0] * 30]) == []


def test_against_the_baseline_is_a_ratio_to_the_values_before_the_window() -> None:
    times = rule(Clause(Signal(metric=KL, against="baseline"), ">", 3.0), summary="{value} times {baseline}")
    found = feed(analyzer(times), [*[0.2] * 30, 0.59, 0.61])
    assert [(finding.step, finding.summary, finding.baseline) for finding in found] == [(32, "3.05 times 0.2", 0.2)]
    assert feed(analyzer(times), [*[0.2] * 19, 0.9]) == []
    assert feed(analyzer(times), [*[0.0] * 30, 0.9]) == []
    assert feed(analyzer(times), [*[-0.2] * 30, 0.9, -0.9]) == []


def test_against_the_first_values_is_a_ratio_to_the_median_of_the_first_twenty() -> None:
    tenth = rule(Clause(Signal(metric=KL, against="first"), "<", 0.1))
    assert edges(feed(analyzer(tenth), [*[2.0] * 20, *[5.0] * 300, 0.21, 0.19])) == [(322, True)]
    assert feed(analyzer(tenth), [*[2.0] * 18, 0.1]) == []


def test_absolute_values_and_products() -> None:
    both = rule(Clause(Signal(metric=KL, absolute=True, by="train/response_length"), ">", 10.0))
    one = analyzer(both)
    found = together(one, {"train/response_length": [100, 100, 300], KL: [0.05, -0.09, -0.04]})
    assert edges(found) == [(3, True)]


def test_all_clauses_must_be_true_and_one_that_is_not_known_decides_nothing() -> None:
    both = rule(HIGH, Clause(Signal(metric="train/reward"), "<", 0.0))
    assert together(analyzer(both), {KL: [0.9] * 5}) == []
    found = together(analyzer(both), {"train/reward": [1, -1, -1, NAN, NAN, 1], KL: [0.9, 0.9, 0.9, 0.9, 0.1, 0.9]})
    assert edges(found) == [(2, True), (5, False)]


def test_another_metric_is_that_of_the_same_process_or_else_the_one_updated_last() -> None:
    both = rule(HIGH, Clause(Signal(metric="train/reward"), "<", 0.0))
    one = analyzer(both)
    one.observe(sample(1, -1.0, "train/reward", rank=0))
    one.observe(sample(1, 1.0, "train/reward", rank=1))
    assert len(list(one.observe(sample(1, 0.9, rank=0)))) == 1
    assert list(one.observe(sample(1, 0.9, rank=1))) == []
    assert list(one.observe(sample(1, 0.9, rank=2))) == []
    one.observe(sample(2, -1.0, "train/reward", rank=0, record_id=2))
    assert len(list(one.observe(sample(2, 0.9, rank=2)))) == 1


def test_series_runs_and_boots_are_kept_apart() -> None:
    one = analyzer(rule(hold=(2, 2)))
    others: list[dict[str, Any]] = [{}, {"run": "r2"}, {"boot": "b2"}, {"role": "x"}, {"rank": 1}, {"rank": None}]
    assert [edges(feed(one, [0.9], first=1, **changes)) for changes in others] == [[]] * len(others)
    assert [edges(feed(one, [0.9], first=2, **changes)) for changes in others] == [[(2, True)]] * len(others)


def test_a_rule_waits_for_as_many_values_as_it_says() -> None:
    assert edges(feed(analyzer(rule(after=3)), [0.9] * 5)) == [(4, True)]


def test_severity_rises_once_when_the_critical_limit_holds_as_long() -> None:
    found = feed(analyzer(rule(critical=2.0, hold=(2, 2))), [0.9, 0.9, 3.0, 0.9, 3.0, 3.0, 3.0, 0.1, 0.1])
    assert [(finding.step, finding.active, finding.severity.value) for finding in found] == [
        (2, True, "warning"), (6, True, "critical"), (9, False, "critical"),
    ]  # fmt: skip
    assert {(finding.onset_step, finding.onset_time) for finding in found} == {(1, 1001.0)}
    assert found[1].summary == "train/kl is 3, limit 2, at step 6"
    at_once = feed(analyzer(rule(critical=2.0)), [3.0])
    assert [finding.severity for finding in at_once] == [Severity.CRITICAL]


def test_a_step_that_comes_twice_or_late_counts_once() -> None:
    one = analyzer(rule(hold=(2, 2)))
    steps = [(1, 0.9), (1, 0.9), (1, 0.9), (2, 0.1), (3, 0.9), (2, 0.9), (4, 0.1)]
    assert [finding for step, value in steps for finding in one.observe(sample(step, value))] == []


def test_two_steps_behind_is_late_and_three_are_a_run_that_went_back() -> None:
    one = analyzer(rule())
    assert edges(feed(one, [0.9], first=20)) == [(20, True)]
    assert feed(one, [0.1, 0.1, 0.1], first=18) == []  # 18 to 20: late, or twice
    found = list(one.observe(sample(17, 0.1)))
    assert edges(found) == [(17, False)]
    assert "went back to step 17" in found[0].summary
    assert edges(feed(one, [0.9], first=18)) == [(18, True)]


@pytest.mark.parametrize(("ahead", "known"), [(3, True), (4, False)])
def test_another_metric_may_be_three_steps_ahead_and_no_more(ahead: int, known: bool) -> None:
    one = analyzer(rule(HIGH, Clause(Signal(metric="train/reward"), "<", 0.0)))
    one.observe(sample(10 + ahead, -1.0, "train/reward", rank=1))
    assert bool(list(one.observe(sample(10, 0.9)))) is known


def test_a_run_that_goes_back_is_looked_at_anew() -> None:
    mean = rule(Clause(Signal(metric=KL, take="mean", over=3), ">", 0.5))
    one = analyzer(mean)
    assert edges(feed(one, [0.9] * 10, first=20)) == [(22, True)]
    found = feed(one, [0.9, 0.9, 0.9, 0.1], first=5)
    assert edges(found) == [(5, False), (7, True), (8, True)][:2]
    assert "went back to step 5" in found[0].summary


def test_values_from_before_a_resume_are_not_known_to_rules_about_other_metrics() -> None:
    both = rule(HIGH, Clause(Signal(metric="train/reward"), "<", 0.0))
    one = analyzer(both)
    one.observe(sample(80, -1.0, "train/reward"))
    assert list(one.observe(sample(40, 0.9))) == []
    one.observe(sample(41, -1.0, "train/reward"))
    assert len(list(one.observe(sample(41, 0.9)))) == 1


@pytest.mark.parametrize(
    ("changes", "fact", "fires"),
    [
        ({"requires": ("critic",)}, True, True), ({"requires": ("critic",)}, None, True),
        ({"requires": ("critic",)}, False, False), ({"excludes": ("critic",)}, True, False),
        ({"excludes": ("critic",)}, None, True), ({"excludes": ("critic",)}, False, True),
        ({"strictly": ("critic",)}, True, True), ({"strictly": ("critic",)}, None, False),
        ({"strictly": ("critic",)}, False, False),
    ],
)  # fmt: skip
def test_a_rule_looks_only_at_runs_that_it_is_meant_for(changes: Any, fact: bool | None, fires: bool) -> None:
    one = analyzer(rule(**changes), facts={} if fact is None else {"critic": fact})
    assert bool(feed(one, [0.9])) is fires
    assert (one.unchecked("r", "b") == []) is fires


def test_a_limit_may_follow_from_the_arguments_of_the_run() -> None:
    limited = rule(Clause(Signal(metric=KL), ">", Argument(("kl.target", "target"), 2.0)), id="k")
    one = analyzer(limited)
    assert feed(one, [9.0]) == []
    assert [str(each) for each in one.unchecked("r", "b")] == ["k: not checked: the run's --kl.target is not known"]
    one.happened(Happening("r", "b", "trainer", 0, None, "run_start", {"args": {"target": 3.0}}, 0.0, 1))
    assert edges(feed(one, [5.0, 7.0], first=2)) == [(3, True)]
    assert one.unchecked("r", "b") == []


def test_a_name_with_placeholders_stands_for_each_metric_that_it_fits() -> None:
    low = rule(Clause(Signal(metric="eval/eval_<datasource>_pass<n>"), "<", 0.1))
    one = analyzer(low)
    found = [*one.observe(sample(1, 0.0, "eval/eval_gsm8k_pass8")), *one.observe(sample(1, 0.0, "eval/eval_x_pass4"))]
    assert [finding.metric for finding in found] == ["eval/eval_gsm8k_pass8", "eval/eval_x_pass4"]
    assert one.observe(sample(1, 0.0, "eval/eval_num_samples")) == ()


def test_a_name_with_a_star_stands_for_each_metric_that_it_fits() -> None:
    one = analyzer(rule(Clause(Signal(metric="mine/*"), "<", 0.1)))
    assert [finding.metric for finding in one.observe(sample(1, 0.0, "mine/a"))] == ["mine/a"]
    assert one.observe(sample(1, 0.0, "yours/a")) == ()


def test_a_metric_that_no_rule_reads_has_no_watch_and_facts_see_every_series_once() -> None:
    known = Known()
    one = RuleAnalyzer(RulesConfig(), [rule()], lambda: known)
    assert one.watch(sample(1, 0.0, "train/loss")) is None
    watch = one.watch(sample(1, 0.9))
    assert watch is not None
    assert edges(watch(sample(1, 0.9))) == [(1, True)]
    feed(one, [0.9] * 3, first=2)
    assert known.seen == ["train/loss", KL]


def test_what_is_forgotten_begins_anew() -> None:
    one = analyzer(rule())
    feed(one, [0.9])
    one.forget("r", "b")
    assert one.runs == ()
    assert edges(feed(one, [0.9])) == [(1, True)]


def test_labels_of_a_rule_are_those_of_its_findings_and_known_to_its_summary() -> None:
    labelled = rule(labels=(("team", "rl"),), summary="{labels.team}: {run} {baseline} {nothing}")
    (finding,) = feed(analyzer(labelled), [0.9])
    assert finding.labels[-1] == ("team", "rl")
    assert finding.summary == "rl: r unknown {nothing}"


def test_a_missing_value_counts_as_the_rule_says() -> None:
    values = [0.1, 0.9, NAN, 0.9, NAN, NAN]
    assert edges(feed(analyzer(rule()), values)) == [(2, True)]
    assert edges(feed(analyzer(rule(missing="ok")), values)) == [(2, True), (3, False), (4, True), (5, False)]
    assert edges(feed(analyzer(rule(missing="alert")), [0.1, NAN, 0.1])) == [(2, True), (3, False)]


def test_history_that_is_not_there_yet_is_no_missing_value() -> None:
    mean = rule(Clause(Signal(metric=KL, take="mean", over=5), ">", 0.5), missing="alert")
    assert feed(analyzer(mean), [0.1] * 10) == []


def steps_without(one: RuleAnalyzer, first: int, last: int) -> list[Finding]:
    """Steps that bring another metric only; the clock turns after each."""
    found: list[Finding] = []
    for step in range(first, last + 1):
        found += one.tick(1000.0 + step)
        found += one.observe(sample(step, 1.0, "train/loss"))
    return [*found, *one.tick(1000.0 + last + 1)]


def test_a_metric_that_stays_away_is_looked_at_for_every_step_without_it() -> None:
    one = analyzer(rule(missing="alert", hold=(2, 2)))
    feed(one, [0.1] * 5)
    found = steps_without(one, 1, 10)
    assert [(finding.active, finding.value) for finding in found] == [(True, None)]
    assert found[0].summary == "train/kl is unknown, limit 0.5, at step 8; it has no value since step 6"
    assert edges(feed(one, [0.1, 0.1], first=11)) == [(12, False)]


def test_every_step_without_a_value_counts_once() -> None:
    one = analyzer(rule(missing="alert", hold=(5, 5)))
    feed(one, [0.1] * 5)
    assert [finding for step in (7, 8, 9, 10) for finding in steps_without(one, step, step)] == []  # 6 to 9 are over
    assert [found for now in (1, 2, 3) for found in one.tick(1010.0 + now)] == []
    feed(one, [0.1], first=11)
    found = steps_without(one, 12, 18)
    assert [(finding.active, finding.step) for finding in found] == [(True, 17)]  # 12 to 16 are
    assert found[0].summary.endswith("it has no value since step 12")


def test_a_metric_that_stays_away_may_end_what_it_began() -> None:
    one = analyzer(rule(missing="ok", hold=(2, 3)))
    assert edges(feed(one, [0.9, 0.9])) == [(2, True)]
    assert [finding.active for finding in steps_without(one, 1, 10)] == [False]


def test_a_metric_that_never_comes_is_missing_too_and_its_coming_ends_that() -> None:
    one = analyzer(rule(missing="alert", hold=(3, 3)))
    found = steps_without(one, 1, 9)
    assert [(finding.metric, finding.active) for finding in found] == [(KL, True)]
    feed(one, [0.1], first=10)
    assert [finding.active for finding in one.tick(1010.0)] == [False]
    assert steps_without(analyzer(rule(missing="ok")), 1, 9) == []


def test_what_has_not_come_is_named_as_not_checked() -> None:
    one = analyzer(rule(HIGH, Clause(Signal(metric="train/reward"), "<", 0.0)))
    feed(one, [0.9])
    (found,) = one.unchecked("r", "b")
    assert found.rule == "kl_high"
    assert found.reason.startswith("not checked: key train/reward absent")


def test_a_rule_that_waits_for_an_event_does_not_complain_of_a_metric() -> None:
    decided = [rule(id=name, metrics=(name,), analyzer="incidents") for name in ("heartbeat", "train/loss", KL)]
    one = analyzer(*[msgspec.structs.replace(each, when=()) for each in decided])
    feed(one, [0.9])
    assert [found.rule for found in one.unchecked("r", "b")] == ["train/loss"]


@pytest.mark.parametrize(
    ("changes", "fact", "reason"),
    [
        ({"requires": ("critic",)}, False, "does not apply: it is for runs with a critic"),
        ({"excludes": ("async",)}, True, "does not apply: it is for runs without asynchronous rollouts"),
        (
            {"strictly": ("critic",)}, None,
            "not checked: whether this run has a critic is not known without its arguments",
        ),
        ({"strictly": ("critic",)}, False, "does not apply: it is for runs with a critic"),
    ],
)  # fmt: skip
def test_why_a_rule_does_not_look_at_a_run_is_said_in_words(changes: Any, fact: bool | None, reason: str) -> None:
    (name,) = next(iter(changes.values()))
    one = analyzer(rule(**changes), facts={} if fact is None else {name: fact})
    feed(one, [0.9])
    assert [found.reason for found in one.unchecked("r", "b")] == [reason]


def test_muted_rules_and_rules_for_other_runs_are_named_as_such() -> None:
    rules = [rule(id="a"), rule(id="b"), rule(id="c", runs=("x*",)), rule(id="d")]
    off = {"b": RuleOverride(enabled=False)}
    one = analyzer(*rules, config=RulesConfig(mute=("a",), override=off))
    assert [finding.rule for finding in feed(one, [0.9])] == ["d"]
    assert [tuple(found) for found in one.unchecked("r", "b")] == [
        ("a", "muted in the configuration"), ("b", "switched off in the configuration"),
        ("c", "not meant for this run"),
    ]  # fmt: skip


VALUES = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 0.9, -1.0, 1e300, -1e300, 1e-300, NAN, INF])
)
STEPS = st.one_of(st.none(), st.integers(0, 60))
WINDOWS: tuple[tuple[Aggregate, int], ...] = (
    ("last", 1), ("mean", 3), ("median", 3), ("std", 3), ("slope", 3), ("drawdown", 2), ("max", 2),
)  # fmt: skip
REFERENCES: tuple[Reference, ...] = ("value", "baseline", "first")
EVERY = tuple(
    rule(
        Clause(Signal(metric=KL, take=take, over=over, against=against, absolute=absolute), ">", 0.5),
        Clause(Signal(metric="train/reward", by=KL), "<", 1.0),
        id=f"{take}-{against}-{absolute}", hold=(2, 3), critical=2.0, missing=missing,
    )
    for take, over in WINDOWS
    for against in REFERENCES
    for absolute, missing in ((False, "unknown"), (True, "alert"))
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(STEPS, st.sampled_from([KL, "train/reward", "x"]), VALUES), max_size=120))
def test_whatever_comes_no_rule_crashes_and_begins_and_ends_take_turns(
    rows: list[tuple[int | None, str, float]],
) -> None:
    one = analyzer(*EVERY)
    ranks: dict[tuple[str, object, str], int] = {}
    for number, (step, name, value) in enumerate(rows):
        for finding in [*one.observe(sample(step, value, name)), *one.tick(float(number))]:
            key = (finding.rule, finding.labels, finding.metric)
            if finding.active:
                assert finding.severity.rank > ranks.get(key, -1)
                ranks[key] = finding.severity.rank
            else:
                assert ranks.pop(key, None) is not None
            msgspec.json.encode(finding.summary)
    again = analyzer(*EVERY)
    first = [list(again.observe(sample(step, value, name))) for step, name, value in rows]
    assert repr(first) == repr([list(found) for found in _observed(rows)])


def _observed(rows: Iterable[Row]) -> list[list[Finding]]:
    one = analyzer(*EVERY)
    return [list(one.observe(sample(step, value, name))) for step, name, value in rows]


@settings(max_examples=30, deadline=None)
@given(st.lists(VALUES, max_size=80))
def test_no_past_blinds_a_threshold(past: list[float]) -> None:
    one = analyzer(rule(hold=(3, 5)))
    feed(one, [*past, *[0.1] * 5])
    assert edges(feed(one, [0.9] * 3, first=len(past) + 6)) == [(len(past) + 8, True)]


def test_memory_of_a_series_is_bounded() -> None:
    one = analyzer(*EVERY)
    feed(one, [0.1] * 5000)
    (history,) = [series.history for run in one._runs.values() for series in run.series.values() if series]
    assert len(history.values) <= 160
    assert len(history.steps) == len(history.values)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-2, 2), st.just(NAN)), min_size=20, max_size=120),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.sampled_from([0.5, 1.0, -0.5, Argument(("x",), 0.5)]),
)
def test_looks_that_are_answered_from_one_value_have_the_answer_of_a_whole_look(
    values: list[float], operator: Any, limit: Any
) -> None:
    rules = [
        msgspec.structs.replace(
            one, when=(msgspec.structs.replace(one.when[0], operator=operator, limit=limit),), missing="unknown"
        )
        for one in EVERY
    ]
    screened, whole = analyzer(*rules, arguments={"x": 1.0}), analyzer(*rules, arguments={"x": 1.0})
    run = whole._run("r", "b")
    assert run is not None
    for plan in run.plans.plans:
        plan.screens = ()
    assert [bool(plan.screens) for plan in analyzer(*rules)._selection.plans("r").plans].count(True) >= 2
    assert repr(feed(screened, values)) == repr(feed(whole, values))
