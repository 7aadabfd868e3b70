"""The signals of a step's experiences: their values, what is absent, what a broken tensor spoils, and what is held."""

from __future__ import annotations

import gc
import math
import weakref
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest

from experiences import STEP_FIELDS, dumped, experience, made_up, maker, tensor
from in_place import process_of, recorder
from openrlhf.recomputed import expected, step
from openrlhf.recomputed_rewards import check_summary
from rlhfd_emitter.hook import MAX_FAILURES
from rlhfd_emitter.process import Process
from rlhfd_emitter.signals import batch as batches
from rlhfd_emitter.signals.batch import Batch
from rlhfd_emitter.signals.experience import GROUPS, approx_kl, make_experience
from rlhfd_emitter.signals.groups import compute
from rlhfd_emitter.signals.reward_summary import MAX_COLUMN, columns, summary

NAN = math.nan


@pytest.fixture
def process() -> Process:
    return process_of("PPOTrainer")


ARGS = {"algo.advantage.estimator": "gae", "rollout.n_samples_per_prompt": 2, "reward.clip_range": (-1, 1)}


def two(**changed: Any) -> Any:
    """One experience of two samples with three and one response tokens."""
    fields: dict[str, Any] = {
        "sequences": tensor([[9, 5, 5, 6, 0], [9, 8, 0, 0, 0]]),
        "action_mask": tensor([[1, 1, 1, 0], [1, 0, 0, 0]]),
        "action_log_probs": tensor([[-1.0, -2.0, -3.0, NAN], [-2.0, NAN, NAN, NAN]]),
        "base_action_log_probs": tensor([[-1.5, -2.0, -2.5, NAN], [-1.0, NAN, NAN, NAN]]),
        "rollout_log_probs": tensor([[-1.0, -2.0, -3.0, NAN], [-2.5, NAN, NAN, NAN]]),
        "values": tensor([[0.0, 1.0, 2.0, NAN], [1.0, NAN, NAN, NAN]]),
        "returns": tensor([[1.0, 1.0, 1.0, NAN], [3.0, NAN, NAN, NAN]]),
        "advantages": tensor([[1.0, 0.0, -1.0, NAN], [2.0, NAN, NAN, NAN]]),
        "rewards": tensor([1.0, 0.5]),
        "response_length": tensor([3, 1]),
        "truncated": tensor([False, True]),
        "index": [0, 1],
        "info": {},
    }
    return SimpleNamespace(**{**fields, **changed})


def signals(*experiences: Any, args: dict[str, Any] = ARGS, process: Process | None = None) -> dict[str, float]:
    return compute(process or Process(), GROUPS, Batch(experiences, maker(args), {}))


def test_values_by_hand() -> None:
    values = {name.removeprefix("rlhfd/"): value for name, value in signals(two()).items()}
    assert values == pytest.approx(
        {
            "tokens": 4, "samples": 2, "kl_coefficient": 0.01,
            "advantage/mean": 0.5, "advantage/std": math.sqrt(1.25), "advantage/min": -1, "advantage/max": 2,
            "advantage/abs_mean": 1, "advantage/trained_mean": 0.5, "advantage/trained_std": math.sqrt(1.25),
            "advantage/outlier_ratio": 0,
            "return/mean": 1.5, "return/std": math.sqrt(0.75), "return/min": 1, "return/max": 3,
            "value/mean": 1, "value/std": math.sqrt(0.5), "explained_variance": 1 - 1.25 / 0.75,
            "kl/k1": -0.25, "kl/k3": (math.exp(-0.5) + 1 + math.exp(0.5) + math.e) / 4 - 1.25, "kl/max": 0.5,
            "mismatch/prob_diff_mean": (math.exp(-2) - math.exp(-2.5)) / 4,
            "mismatch/prob_diff_max": math.exp(-2) - math.exp(-2.5),
            "mismatch/k1": -0.125, "mismatch/k3": (math.exp(0.5) - 1.5) / 4, "mismatch/chi2": (math.e - 1) / 4,
            "mismatch/ess_ratio": (3 + math.exp(0.5)) ** 2 / (4 * (3 + math.e)),
            "entropy/sampled": 2,
            "reward/mean": 0.75, "reward/std": 0.25, "reward/min": 0.5, "reward/max": 1,
            "reward/p10": 0.55, "reward/p50": 0.75, "reward/p90": 0.95, "reward/clipped_ratio": 0.5,
            "group/zero_std_ratio": 0, "group/duplicate_ratio": 0,
            "response_length/mean": 2, "response_length/min": 1, "response_length/max": 3, "response_length/p50": 2,
            "response_length/p90": 2.8, "response_length/p99": 2.98, "response_length/zero_ratio": 0,
            "response_length/truncated_ratio": 0.5,
            "correlation/reward_length": 1, "correlation/advantage_reward": -1, "correlation/kl_reward": 1,
            "repetition/consecutive_ratio": 0.5, "ratio_of/advantage_reward": 4 / 3,
        }
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_values_of_made_up_batches_equal_their_recomputation(seed: int, process: Process) -> None:
    fields = made_up(seed)
    args = fields[0]["args"]
    got = signals(*map(experience, fields), args=args, process=process)
    one = step(dumped(fields, 0.01))
    assert recorder(process).events == []
    if sum(len(response.tokens["returns"]) for response in one.responses):
        assert got == pytest.approx(expected(one, args), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_the_summary_of_made_up_rewards_equals_its_recomputation(seed: int) -> None:
    fields = made_up(seed)
    args = fields[0]["args"]
    got = summary(Batch(list(map(experience, fields)), maker(args), {}))
    check_summary(got, step(dumped(fields, 0.01)), args)


def reported(process: Process, *experiences: Any) -> dict[str, dict[str, object]]:
    """The events of a step, by name."""
    made = SimpleNamespace(**vars(maker(ARGS)))
    make_experience(process, lambda maker, samples: list(experiences))(made, [])
    return dict(recorder(process).events)


def test_a_step_sends_the_summary_of_its_rewards_and_single_answers_only_to_whom_asks(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = reported(process, two())["reward_summary"]
    assert (told["step"], told["values"], told["counts"], told["clip"]) == (1, [0.5, 1.0], [1, 1], [-1.0, 1.0])
    assert "reward_samples" not in dict(recorder(process).events)
    monkeypatch.setenv("RLHFD_SAMPLES", "1")
    told = reported(process, two())["reward_samples"]
    digests = told.pop("response_id")
    assert told == {
        "step": 2, "reward": [1.0, 0.5], "length": [3.0, 1.0], "repetition": [None, None], "prompt_id": [0, 0],
        "kl": [0.0, -1.0], "advantage": [0.0, 2.0],
    }  # fmt: skip
    assert isinstance(digests, list)
    assert len(set(digests)) == 2


def test_rewards_that_are_no_numbers_are_counted_and_left_out() -> None:
    told = summary(Batch([two(rewards=tensor([NAN, 0.5]))], maker(ARGS), {}))
    assert (told["samples"], told["missing"], told["values"], told["counts"]) == (2, 1, [0.5], [1])
    told = summary(Batch([two(rewards=tensor([NAN, math.inf]))], maker(ARGS), {}))
    assert told == {"samples": 2, "missing": 2, "clip": [-1.0, 1.0]}


def test_a_summary_fits_into_a_frame_however_large_the_batch() -> None:
    random = np.random.default_rng(1)
    many = two(
        sequences=tensor(random.integers(0, 9, (4096, 5))),
        action_mask=tensor(np.ones((4096, 4), int)),
        **{name: tensor(random.normal(0, 1, (4096, 4))) for name in STEP_FIELDS},
        rewards=tensor(random.normal(0, 1, 4096)),
        response_length=tensor(np.full(4096, 4)),
        truncated=tensor(np.zeros(4096, bool)),
        index=list(range(4096)),
    )
    batch = Batch([many], maker(ARGS), {})
    assert len(msgpack.packb(summary(batch))) < 2000
    assert {len(column) for column in columns(batch).values()} == {MAX_COLUMN}  # type: ignore[arg-type]


def test_what_is_not_there_is_absent_and_no_failure(process: Process) -> None:
    bare = two(**dict.fromkeys(("values", "base_action_log_probs", "rollout_log_probs", "truncated", "rewards")))
    got = signals(bare, args={"algo.advantage.estimator": "reinforce"}, process=process)
    gone = ("value/", "explained", "kl/", "mismatch/", "reward/", "group/", "correlation/", "ratio_of/", "truncated")
    assert [name for name in got if any(part in name for part in gone)] == []
    assert {"rlhfd/advantage/mean", "rlhfd/entropy/sampled", "rlhfd/response_length/mean"} <= set(got)
    assert recorder(process).events == []


def test_names_of_older_versions_are_read_from_info_and_flat_arguments() -> None:
    old = two(rewards=None, response_length=None, truncated=None)
    old.info = {"reward": tensor([2.0, 2.0]), "response_length": tensor([3.0, 1.0])}
    args = {"reward_clip_range": (-2, 2), "n_samples_per_prompt": 2}
    got = signals(old, args=args)
    assert (got["rlhfd/reward/clipped_ratio"], got["rlhfd/group/zero_std_ratio"]) == (1, 1)
    assert got["rlhfd/response_length/mean"] == 2
    assert "rlhfd/correlation/reward_length" not in got


def test_a_batch_without_a_response_token_has_only_signals_of_samples(process: Process) -> None:
    got = signals(two(action_mask=tensor([[0, 0, 0, 0], [0, 0, 0, 0]])), process=process)
    assert (got["rlhfd/tokens"], got["rlhfd/response_length/zero_ratio"]) == (0, 1)
    assert not [name for name in got if name.split("/")[1] in ("advantage", "return", "value", "kl", "mismatch")]
    assert recorder(process).events == []


def test_one_sequence_without_a_batch_dimension_is_a_batch_of_one() -> None:
    fields = vars(two())
    names = [name for name, value in fields.items() if getattr(value, "ndim", 0) == 2]
    single = {name: fields[name][0] for name in names}
    rest = {"rewards": tensor([1.0]), "response_length": tensor([3]), "truncated": tensor([False]), "index": [0]}
    got = signals(two(**single, **rest))
    assert (got["rlhfd/samples"], got["rlhfd/tokens"], got["rlhfd/return/mean"]) == (1, 3, 1)


SPOILT: list[tuple[dict[str, Any], str, str]] = [
    (
        {"rewards": tensor([NAN, 0.5])},
        "reward/mean reward/std reward/min reward/max reward/p10 reward/p90 ratio_of/advantage_reward "
        "correlation/reward_length correlation/advantage_reward correlation/kl_reward",
        "group/zero_std_ratio",
    ),
    (
        {"action_log_probs": tensor([[NAN, -2.0, -3.0, 0], [-2.0, 0, 0, 0]])},
        "kl/k1 kl/k3 kl/max mismatch/k1 mismatch/chi2 mismatch/prob_diff_max mismatch/ess_ratio entropy/sampled "
        "correlation/kl_reward",
        "advantage/mean",
    ),
    (
        {"values": tensor([[NAN, 1.0, 2.0, 0], [1.0, 0, 0, 0]])},
        "value/mean explained_variance advantage/max ratio_of/advantage_reward correlation/advantage_reward",
        "return/mean",
    ),
    (
        {"advantages": tensor([[NAN, 0.0, 1.0, 0], [2.0, 0, 0, 0]])},
        "advantage/trained_mean advantage/trained_std advantage/outlier_ratio",
        "advantage/mean",
    ),
]


@pytest.mark.parametrize(("changed", "spoilt", "sound"), SPOILT, ids=lambda value: str(value)[:20])
def test_not_a_number_shows_where_it_is_the_truth_and_nowhere_else(
    changed: dict[str, Any], spoilt: str, sound: str, process: Process
) -> None:
    got = signals(two(**changed), process=process)
    wrong = {name.removeprefix("rlhfd/") for name, value in got.items() if math.isnan(value)}
    assert set(spoilt.split()) <= wrong
    assert sound not in wrong
    assert f"rlhfd/{sound}" in got
    assert {name.split("/")[0] for name in wrong} <= {name.split("/")[0] for name in spoilt.split()}
    assert recorder(process).events == []


def test_missing_rewards_are_counted_and_are_not_equal_to_each_other() -> None:
    got = signals(two(rewards=tensor([NAN, NAN])))
    assert (got["rlhfd/reward/missing_ratio"], got["rlhfd/group/zero_std_ratio"]) == (1, 0)
    assert got["rlhfd/reward/clipped_ratio"] == 0


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_missing_reward_makes_correlations_unknown_wherever_it_stands(order: str) -> None:
    rewards = [NAN, 0.5] if order == "first" else [0.5, NAN]
    got = signals(two(rewards=tensor(rewards)))
    assert math.isnan(got["rlhfd/correlation/reward_length"])
    assert math.isnan(got["rlhfd/reward/min"])


def test_log_ratios_of_the_mismatch_are_clamped_where_numbers_end() -> None:
    got = signals(two(rollout_log_probs=tensor([[-900.0, -2.0, -3.0, 0], [-2.0, 0, 0, 0]])))
    assert got["rlhfd/mismatch/k1"] == -5
    assert got["rlhfd/mismatch/chi2"] == pytest.approx(math.expm1(40) / 4)


def test_outliers_are_counted_against_the_spread_of_what_is_trained_on() -> None:
    mask = tensor([[1] * 100])
    row = tensor([[0.0] * 99 + [7.0]])
    one = SimpleNamespace(action_mask=mask, returns=row, advantages=row, info={})
    assert signals(one, args={})["rlhfd/advantage/outlier_ratio"] == 0.01
    flat = SimpleNamespace(action_mask=mask, returns=row, advantages=row * 0 + 3, info={})
    assert "rlhfd/advantage/outlier_ratio" not in signals(flat, args={})


def test_a_huge_batch_is_looked_at_in_every_nth_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [tensor([[float(row)] * 4 for row in part]) for part in ([0, 1, 2, 3, 4], [5, 6, 7], [8, 9])]
    experiences = [
        SimpleNamespace(action_mask=row * 0 + 1, returns=row, advantages=row, rewards=row[:, 0] * 2, info={})
        for row in rows
    ]
    monkeypatch.setattr(batches, "MAX_POSITIONS", 15)
    got = signals(*experiences, args={})
    assert got["rlhfd/sampled_ratio"] == 0.4  # 0, 3, 6 and 9
    assert (got["rlhfd/return/mean"], got["rlhfd/return/max"]) == (4.5, 9)
    assert (got["rlhfd/tokens"], got["rlhfd/samples"], got["rlhfd/reward/mean"]) == (40, 10, 9)
    assert got["rlhfd/correlation/advantage_reward"] == pytest.approx(1)
    monkeypatch.setattr(batches, "MAX_POSITIONS", 40)
    assert "rlhfd/sampled_ratio" not in signals(*experiences, args={})


def test_a_group_that_fails_loses_only_its_own_signals_and_is_reported_once(process: Process) -> None:
    broken = two(values=tensor([[1.0, 2.0]]))
    for _ in range(2):
        got = signals(broken, process=process)
        assert {"rlhfd/entropy/sampled", "rlhfd/reward/mean", "rlhfd/repetition/consecutive_ratio"} <= set(got)
        assert "rlhfd/value/mean" not in got
    failed = [fields["hook"] for kind, fields in recorder(process).events if kind == "hook_failed"]
    assert sorted(map(str, failed)) == ["signals.advantage", "signals.correlation", "signals.ratio", "signals.value"]
    assert "(1, 2) is not like action_mask (2, 4)" in str(recorder(process).events[0][1]["error"])


def test_a_group_that_fails_three_times_in_a_row_is_left_alone_from_then_on(process: Process) -> None:
    calls: list[str] = []

    def flaky(subject: str) -> dict[str, float]:
        calls.append(subject)
        if subject == "bad":
            raise RuntimeError(subject)
        return {"fine": 1.0}

    groups = {"flaky": flaky, "steady": lambda subject: {"steady": 2.0}}
    for subject in ("bad", "bad", "good", *["bad"] * (MAX_FAILURES + 2), "good"):
        assert compute(process, groups, subject)["steady"] == 2.0
    assert calls == ["bad", "bad", "good", *["bad"] * MAX_FAILURES]
    reported = [(fields["hook"], fields["failures"], fields["disabled"]) for _, fields in recorder(process).events]
    assert reported == [("signals.flaky", 1, False), ("signals.flaky", MAX_FAILURES, True)]


def test_base_log_probs_that_openrlhf_drops_are_known_while_experiences_are_made_and_not_longer(
    process: Process,
) -> None:
    kl = approx_kl(process, lambda log_probs, log_probs_base, kl_estimator="k1": log_probs - log_probs_base)
    reference: Any = tensor([[-1.5, -2.0, -2.5, NAN], [-1.0, NAN, NAN, NAN]])
    gone = weakref.ref(reference)
    kl(tensor([0.0]), reference)  # elsewhere: not held
    one = two(base_action_log_probs=None)

    def original(self: Any, rollout_samples: Any) -> Any:
        kl(tensor([9.0]), log_probs_base=tensor([9.0]))
        kl(log_probs=one.action_log_probs, log_probs_base=reference, kl_estimator="k1")
        return [one]

    assert make_experience(process, original)(maker(ARGS), rollout_samples=[]) == [one]
    ((step, values),) = recorder(process).metrics
    assert (step, values["rlhfd/kl/k1"]) == (1, -0.25)
    reference = None
    gc.collect()
    assert gone() is None


def test_nothing_is_held_after_a_failed_call_whose_error_is_the_caller_s(process: Process) -> None:
    kl = approx_kl(process, lambda log_probs, log_probs_base: None)
    reference: Any = tensor([1.0])
    gone = weakref.ref(reference)

    def original(self: Any, rollout_samples: Any) -> Any:
        kl(tensor([1.0]), reference)
        raise KeyError("of OpenRLHF")

    with pytest.raises(KeyError, match="of OpenRLHF"):
        make_experience(process, original)(maker(ARGS), [])
    reference = None
    gc.collect()
    assert gone() is None
    assert recorder(process).metrics == []


@pytest.mark.parametrize("result", [None, [], [None, 3, SimpleNamespace(action_mask=None)], "text"])
def test_a_result_that_holds_no_experience_is_passed_on_without_a_word(process: Process, result: Any) -> None:
    returned = make_experience(process, lambda self, rollout_samples: result)(maker(ARGS), [1])
    assert returned is result
    assert (recorder(process).metrics, recorder(process).events) == ([], [])


def test_tensors_on_an_accelerator_and_a_muted_stream_cost_nothing(process: Process) -> None:
    class Untouchable:
        device = SimpleNamespace(type="cuda")

    away = SimpleNamespace(action_mask=Untouchable())
    make_experience(process, lambda self, rollout_samples: [away])(maker(ARGS), [])
    recorder(process).muted = True
    make_experience(process, lambda self, rollout_samples: [two()])(maker(ARGS), [])
    assert (recorder(process).metrics, recorder(process).events) == ([], [])


def test_the_frame_says_what_it_cost(process: Process) -> None:
    make_experience(process, lambda self, rollout_samples: [two()])(maker(ARGS), [])
    assert recorder(process).metrics[0][1]["rlhfd/overhead/experience_seconds"] > 0
