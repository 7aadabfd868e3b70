"""Metrics that stay away or no longer change, and checkpoints that are overdue: what is one, and what is not."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from detecting.logs import labelled, listened
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.absence import FROZEN, MISSING, Absence
from rlhfd_daemon.analyzers.overdue import NoCheckpoint
from rlhfd_daemon.config_analyzers import AbsenceConfig
from rlhfd_daemon.sample import Happening, Sample

NAN = math.nan
NAMES = ("train/kl", "train/entropy_loss", "train/policy_loss", "train/rollout/reward_mean")
Frame = tuple[int, Mapping[str, float]]


def feed(analyzer: Absence | NoCheckpoint, frames: Iterable[Frame], **changes: Any) -> list[Finding]:
    """What the frames, each a step and its metrics, lead to."""
    found: list[Finding] = []
    for record, (step, metrics) in enumerate(frames, 1):
        for name, value in metrics.items():
            fields: dict[str, Any] = {"run": "r", "boot": "b", "role": "PPOTrainer", "rank": None, **changes}
            sample = Sample(**fields, step=step, name=name, value=value, time=1000.0 + step, record_id=record)
            found += analyzer.observe(sample)
    return found


def steps(first: int, last: int, without: Iterable[str] = (), seed: int = 0, **fixed: float) -> Iterator[Frame]:
    """Frames of all ``NAMES`` but ``without``, with values that differ at every step."""
    source = random.Random(seed + first)
    for step in range(first, last + 1):
        values = {name: source.gauss(1.0, 0.1) for name in NAMES if name not in without}
        yield step, {**values, **{name: value for name, value in fixed.items() if name not in without}}


def edges(found: Iterable[Finding]) -> list[tuple[str, int | None, bool]]:
    return [(finding.rule, finding.step, finding.active) for finding in found]


def absence(**changes: Any) -> Absence:
    return Absence(AbsenceConfig(**changes))


def test_a_metric_that_is_missing_for_three_steps_is_one_finding_that_names_the_first_of_them() -> None:
    found = feed(absence(), [*steps(1, 60), *steps(61, 80, without=["train/kl"])])
    assert edges(found) == [(MISSING, 64, True)]
    finding = found[0]
    assert (finding.metric, finding.family, finding.severity) == ("train/kl", "data", Severity.WARNING)
    assert (finding.onset_step, finding.onset_time) == (61, 1061.0)
    assert finding.evidence[0][0] == 60
    assert finding.labels == (("role", "PPOTrainer"),)
    assert "train/kl has not come since step 61" in finding.summary


def test_metrics_that_leave_together_are_one_finding_and_the_summary_lists_up_to_five() -> None:
    extra = {f"train/critic_{letter}": 1.0 for letter in "abcdefg"}
    full = [(step, {**metrics, **extra}) for step, metrics in steps(1, 40)]
    found = feed(absence(), [*full, *steps(41, 60)])
    assert edges(found) == [(MISSING, 44, True)]
    assert found[0].metric == "train/critic_a"
    assert "train/critic_e and 2 more have not come" in found[0].summary


def test_a_missing_metric_that_comes_back_ends_it_with_the_last_of_those_that_left() -> None:
    both = ["train/kl", "train/entropy_loss"]
    frames = [*steps(1, 40), *steps(41, 50, without=both), *steps(51, 55, without=both[:1]), *steps(56, 58)]
    assert edges(feed(absence(), frames)) == [(MISSING, 44, True), (MISSING, 56, False)]


def test_one_or_two_steps_without_a_metric_are_silent() -> None:
    frames: list[Frame] = []
    for first in range(1, 400, 20):
        frames += [*steps(first, first + 17), *steps(first + 18, first + 19, without=["train/kl"])]
    assert feed(absence(), frames) == []


def test_a_metric_that_skips_more_steps_now_and_then_is_given_twice_as_long() -> None:
    usual = [*steps(1, 100), *steps(101, 102, without=["train/kl"]), *steps(103, 160)]
    assert feed(absence(), [*usual, *steps(161, 163, without=["train/kl"]), *steps(164, 170)]) == []
    assert edges(feed(absence(), [*usual, *steps(161, 190, without=["train/kl"])])) == [(MISSING, 165, True)]


def test_what_comes_at_intervals_or_only_at_the_start_is_left_alone() -> None:
    def frames() -> Iterator[Frame]:
        for step, metrics in steps(1, 400):
            extra = {"judge/score": float(step)} if step % 10 == 0 and step < 200 else {}
            often = {"judge/often": float(step)} if step % 5 and step < 200 else {}
            start = {"judge/start": float(step)} if step < 15 else {}
            eval_at = {"eval/eval_math_pass1": float(step)} if step < 200 else {}
            yield step, {**metrics, **extra, **often, **start, **eval_at}

    assert feed(absence(), frames()) == []


def test_a_metric_that_begins_later_is_no_loss_and_watched_from_then_on() -> None:
    late = {"train/critic_loss": 0.5}
    frames = [*steps(1, 40), *((step, {**metrics, **late}) for step, metrics in steps(41, 80)), *steps(81, 90)]
    assert edges(feed(absence(), frames)) == [(MISSING, 84, True)]


def test_a_process_that_goes_on_with_other_metrics_does_something_else_and_has_lost_none() -> None:
    other = [(step, {"sft/loss": step / 7, "sft/acc": step / 11}) for step in range(61, 120)]
    assert feed(absence(), [*steps(1, 60), *other]) == []


def test_a_resumed_run_may_log_other_metrics_and_ends_what_was_missing() -> None:
    kl = ["train/kl"]
    assert feed(absence(), [*steps(1, 60), *steps(30, 90, without=kl)]) == []
    found = feed(absence(), [*steps(1, 60), *steps(61, 70, without=kl), *steps(30, 90, without=kl)])
    assert edges(found) == [(MISSING, 64, True), (MISSING, 30, False)]


def test_after_a_resume_a_metric_that_came_again_is_watched_again() -> None:
    found = feed(absence(), [*steps(1, 60), *steps(30, 50), *steps(51, 60, without=["train/kl"])])
    assert edges(found) == [(MISSING, 54, True)]


def test_frames_that_come_twice_or_late_are_neither_steps_nor_resumes() -> None:
    once = [*steps(1, 60), *steps(61, 64, without=["train/kl"])]
    shuffled = [frame for one, two in zip(once[::2], once[1::2], strict=True) for frame in (two, one, two, one)]
    assert edges(feed(absence(), shuffled)) == []
    assert edges(feed(absence(), [*shuffled, *steps(65, 66, without=["train/kl"])])) == [(MISSING, 66, True)]


def test_processes_are_kept_apart() -> None:
    analyzer = absence()
    for rank in (0, 1):
        feed(analyzer, steps(1, 40), rank=rank)
    assert edges(feed(analyzer, steps(41, 60, without=["train/kl"]), rank=0)) == [(MISSING, 44, True)]
    assert feed(analyzer, steps(41, 60), rank=1) == []


def test_a_metric_without_a_step_is_of_no_concern() -> None:
    analyzer = absence()
    sample = Sample("r", "b", "rlhfd", None, None, "gpu/0/power_watts", 1.5, 1.0, 1)
    assert [list(analyzer.observe(sample)) for _ in range(100)] == [[]] * 100


def frozen(first: int, last: int, *names: str) -> Iterator[Frame]:
    """As :func:`steps`, but ``names`` do not change."""
    for step, metrics in steps(first, last):
        yield step, {**metrics, **dict.fromkeys(names, 0.731)}


def test_a_metric_that_varied_and_is_bit_identical_for_twenty_steps_is_frozen() -> None:
    found = feed(absence(), [*steps(1, 60), *frozen(61, 100, "train/kl")])
    assert edges(found) == [(FROZEN, 81, True)]
    finding = found[0]
    assert (finding.metric, finding.onset_step, finding.value, finding.severity) == (
        "train/kl", 61, 0.731, Severity.WARNING,
    )  # fmt: skip
    assert "train/kl has had the same value, bit by bit, since step 61" in finding.summary


def test_nineteen_equal_values_are_not_enough() -> None:
    assert feed(absence(), [*steps(1, 60), *frozen(61, 79, "train/kl"), *steps(80, 90)]) == []


def test_what_freezes_together_is_one_finding_of_the_family_that_all_have_or_of_data() -> None:
    pair = ("train/kl", "train/entropy_loss")
    found = feed(absence(), [*steps(1, 60), *frozen(61, 100, *pair)])
    assert [(one.family, one.metric) for one in found] == [("data", "train/kl")]
    found = feed(absence(), [*steps(1, 60), *frozen(61, 100, "train/rollout/reward_mean")])
    assert [one.family for one in found] == ["reward"]


def test_a_process_all_of_whose_metrics_repeat_themselves_is_told_as_such() -> None:
    found = feed(absence(), [*steps(1, 60), *frozen(61, 100, *NAMES)])
    assert edges(found) == [(FROZEN, 81, True)]
    assert found[0].summary.startswith("all that used to vary (train/kl, ")
    assert "sends the same values again" in found[0].remedy


def test_a_frozen_metric_that_moves_again_ends_it_and_may_freeze_again() -> None:
    again = [*steps(1, 60), *frozen(61, 90, "train/kl"), *steps(91, 130), *frozen(131, 160, "train/kl")]
    assert edges(feed(absence(), again)) == [(FROZEN, 81, True), (FROZEN, 91, False), (FROZEN, 151, True)]


def test_constants_by_design_never_freeze() -> None:
    def frames() -> Iterator[Frame]:
        source = random.Random(4)
        for step, metrics in steps(1, 300):
            warm = min(step, 100)
            yield (
                step,
                {
                    **metrics,
                    "train/actor_lr": 1e-6 * warm / 99.0,  # schedule that ends
                    "train/response_length": 512.0 if step > 100 else 400 + source.random(),  # a cap
                    "train/ppo_clip_ratio": 0.0 if step > 100 else source.random(),
                    "train/half": 0.5 if source.random() < 0.6 else source.random(),  # mostly the same
                    "train/kl_zero": 0.0,
                    "train/constant": 0.37,
                },
            )

    assert feed(absence(), frames()) == []


def doubled(first: int, last: int) -> Iterator[Frame]:
    """As :func:`steps`, but the KL has every value twice."""
    for step, metrics in steps(first, last):
        yield step, {**metrics, "train/kl": random.Random(step // 2).random()}


def test_what_repeats_every_other_value_lately_may_repeat_itself_more_often() -> None:
    still = [*frozen(701, 730, "train/kl")]
    assert feed(absence(), [*doubled(1, 700), *still]) == []
    assert feed(absence(), [*steps(1, 300), *doubled(301, 700), *still]) == []
    assert edges(feed(absence(), [*doubled(1, 100), *steps(101, 700), *still])) == [(FROZEN, 721, True)]


def test_a_metric_that_came_seldom_long_ago_is_watched_once_it_comes_always() -> None:
    seldom = [
        frame for step in range(1, 300, 3) for frame in (*steps(step, step), *steps(step + 1, step + 2, ["train/kl"]))
    ]
    found = feed(absence(), [*seldom, *steps(301, 1500), *steps(1501, 1510, without=["train/kl"])])
    assert edges(found) == [(MISSING, 1504, True)]


def test_equal_values_before_a_resume_do_not_count_after_it() -> None:
    assert (
        feed(absence(), [*steps(1, 60), *frozen(61, 72, "train/kl"), *frozen(50, 61, "train/kl"), *steps(62, 70)]) == []
    )


def test_nan_neither_is_a_change_nor_makes_blind() -> None:
    broken = [(step, {**metrics, "train/kl": NAN}) for step, metrics in steps(61, 200)]
    found = feed(absence(), [*steps(1, 60), *broken, *frozen(201, 230, "train/kl")])
    assert edges(found) == [(FROZEN, 221, True)]
    found = feed(absence(), [*steps(1, 60), *broken, *steps(201, 230, without=["train/kl"])])
    assert edges(found) == [(MISSING, 204, True)]


def test_repeated_rows_of_one_step_do_not_freeze_anything() -> None:
    assert feed(absence(), [*steps(1, 60), *[(61, dict.fromkeys(NAMES, 0.5))] * 50, *steps(62, 70)]) == []


def test_a_long_history_does_not_delay_what_comes_after_it() -> None:
    found = feed(absence(), [*steps(1, 3000), *steps(3001, 3010, without=["train/kl"])])
    assert edges(found) == [(MISSING, 3004, True)]
    found = feed(absence(), [*steps(1, 3000), *frozen(3001, 3030, "train/kl")])
    assert edges(found) == [(FROZEN, 3021, True)]


def test_forgetting_a_run_drops_its_state_and_gives_its_room_back() -> None:
    analyzer = absence()
    feed(analyzer, steps(1, 60))
    analyzer.forget("r", "b")
    assert feed(analyzer, steps(61, 79, without=["train/kl"])) == []
    assert feed(analyzer, steps(80, 85, without=["train/policy_loss"])) == []  # younger than the history asked for


def test_a_long_absence_long_ago_does_not_make_blind() -> None:
    long_ago = [*steps(1, 15), *steps(16, 60, without=["train/kl"]), *steps(61, 700)]
    assert edges(feed(absence(), [*long_ago, *steps(701, 710, without=["train/kl"])])) == [(MISSING, 704, True)]


FLOATS = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 1e300, -1e300, 0.5])


@given(
    st.lists(
        st.tuples(st.integers(-3, 60), st.dictionaries(st.sampled_from(NAMES), FLOATS)), max_size=80
    )
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_whatever_came_before_a_metric_that_leaves_a_steady_process_is_found(noise: list[Frame]) -> None:
    analyzer = absence()
    feed(analyzer, noise)
    feed(analyzer, steps(1000, 1600))
    assert (MISSING, 1604, True) in edges(feed(analyzer, steps(1601, 1610, without=["train/kl"])))


@given(st.lists(st.tuples(st.integers(0, 40), st.dictionaries(st.sampled_from(NAMES), FLOATS)), max_size=120))
@settings(max_examples=150, deadline=None)
def test_beginnings_and_ends_alternate(frames: list[Frame]) -> None:
    active: set[tuple[str, str]] = set()
    for finding in feed(absence(min_history=5, frozen_steps=5, frozen_history=10), frames):
        subject = (finding.rule, finding.metric)
        assert (subject in active) is not finding.active
        active ^= {subject}


def saved(analyzer: NoCheckpoint, step: int | None, phase: str = "checkpoint", **changes: Any) -> list[Finding]:
    fields = {"phase": phase, **changes.pop("fields", {})}
    who: dict[str, Any] = {"run": "r", "boot": "b", "role": "PolicyModelActor", "rank": 0, **changes}
    event = Happening(**who, step=step, name="phase_end", fields=fields, time=1000.0, record_id=1)
    return list(analyzer.happened(event))


def trained(until: int, every: int, **changes: Any) -> NoCheckpoint:
    """A run at step ``until`` that saved ``every`` so many steps."""
    analyzer = NoCheckpoint(AbsenceConfig(**changes))
    for step in range(1, until + 1):
        assert feed(analyzer, [(step, {"train/kl": 0.1, "train/reward": 1.0})]) == []
        if step % every == 0:  # model actors do not know the step they are at
            assert saved(analyzer, None) == []
        if step > every and step % 7 == 0:
            assert saved(analyzer, None, rank=1) == []  # not the first that saved
    return analyzer


def test_checkpoints_are_overdue_by_more_than_two_intervals_once_and_until_the_next_is_written() -> None:
    analyzer = trained(60, every=20)
    found = feed(analyzer, [(step, {"train/kl": 0.1}) for step in range(61, 200)])
    assert [(one.rule, one.step, one.active) for one in found] == [("no_checkpoint", 121, True)]
    assert (found[0].family, found[0].onset_step, found[0].value, found[0].baseline) == ("checkpoint", 80, 61.0, 20.0)
    assert "no checkpoint since step 60, at step 121 now; they used to come every 20 steps" in found[0].summary
    assert [one.active for one in saved(analyzer, 200)] == [False]
    found = feed(analyzer, [(step, {"train/kl": 0.1}) for step in range(201, 300)])
    assert [(one.step, one.active) for one in found] == [(261, True)]  # the pause was no interval


def test_of_all_series_a_few_of_one_process_are_enough_to_know_the_step() -> None:
    analyzer = NoCheckpoint(AbsenceConfig())
    first = [Sample("r", "b", "PPOTrainer", rank, 1, name, 1.0, 1.0, 1) for rank in (0, 1) for name in NAMES]
    assert [analyzer.watch(one) is not None for one in first] == [True] * 3 + [False] * 5
    assert analyzer.watch(Sample("r2", "b", "rlhfd", None, None, "gpu/0/power_watts", 1.0, 1.0, 1)) is None


def test_a_checkpoint_that_failed_is_none() -> None:
    analyzer = trained(60, every=20)
    feed(analyzer, [(80, {"train/kl": 0.1})])
    assert saved(analyzer, 80, fields={"error": "OSError: no space left"}) == []
    assert len(feed(analyzer, [(121, {"train/kl": 0.1})])) == 1


def test_checkpoints_without_a_habit_are_never_overdue() -> None:
    analyzer = NoCheckpoint(AbsenceConfig())
    assert [saved(analyzer, step) for step in (10, 50, 55, 200)] == [[]] * 4
    assert feed(analyzer, [(5000, {"train/kl": 0.1})]) == []
    assert feed(trained(40, every=20), [(5000, {"train/kl": 0.1})]) == []  # a single interval


def test_a_run_that_went_back_to_a_checkpoint_is_not_overdue() -> None:
    analyzer = trained(60, every=20)
    assert saved(analyzer, 20) == []
    assert feed(analyzer, [(61, {"train/kl": 0.1}), (81, {"train/kl": 0.1}), (500, {"train/kl": 0.1})]) == []


def test_checkpoints_of_a_forgotten_run_are_forgotten() -> None:
    analyzer = trained(60, every=20)
    analyzer.forget("r", "b")
    assert feed(analyzer, [(5000, {"train/kl": 0.1})]) == []


def test_only_series_with_steps_that_are_not_ignored_are_watched() -> None:
    def first(name: str, step: int | None = 1, role: str = "PPOTrainer") -> Sample:
        return Sample("r", "b", role, None, step, name, 1.0, 1.0, 1)

    analyzer = absence()
    assert analyzer.watch(first("train/kl")) is not None
    unwatched = [first("gpu/0/power_watts", None), first("rlhfd/kl/k1"), first("train/kl", role="rlhfd")]
    assert [analyzer.watch(one) for one in unwatched] == [None] * 3


def test_healthy_real_runs_lack_nothing_and_a_run_whose_gradients_are_nan_repeats_its_norms() -> None:
    logs = [log for log in labelled() if log.label.group == "openrlhf"]
    healthy = [log for log in logs if log.label.fault is None]
    assert len(healthy) >= 10
    assert [alarm for log in healthy for alarm in listened(log, lambda: [absence()])] == []
    (broken,) = (log for log in logs if log.label.name == "reward_nan_at_61")
    assert [alarm.rule for alarm in listened(broken, lambda: [absence()])] == [FROZEN]
