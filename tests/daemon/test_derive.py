"""Durations, skew between ranks and ratios: computed by hand here, from frames as several ranks would send them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rlhfd_daemon.derive import BETWEEN_RANKS, FULLEST, MAX_STEPS, RATIOS, SHARES, Derivation, derived_names, ratios
from rlhfd_daemon.interpret import Interpreter
from rlhfd_daemon.metrics import lookup
from rlhfd_daemon.sample import Sample
from wire import frame

S = 1_000_000_000


class Ranks:
    """Two or more ranks of one role."""

    def __init__(self, size: int) -> None:
        self.derivation = Derivation()
        for rank in range(size):
            self.event(rank, "process_start", world_size=size)

    def event(self, rank: int, event: str, mono: float = 0.0, **fields: object) -> list[tuple[int | None, str, float]]:
        one = frame(kind="event", event=event, fields=fields, rank=rank, stream=f"s{rank}", mono_ns=int(mono * S))
        return [(derived.rank, derived.name, derived.value) for derived in self.derivation.observe(one)]

    def work(self, rank: int, step: int | None, **metrics: float) -> dict[str, float]:
        """What rank ``rank`` did of the policy's work, and what follows."""
        named = {f"rlhfd/policy/{name}": value for name, value in metrics.items()}
        found = self.derivation.compare(frame(metrics=named, rank=rank, step=step, stream=f"s{rank}"))
        assert {(derived.rank, derived.step) for derived in found} <= {(None, step)}
        return {derived.name.removeprefix("rlhfd/policy/"): derived.value for derived in found}

    def begin(self, rank: int, mono: float) -> None:
        assert self.event(rank, "phase_begin", mono, phase="save", id=1) == []

    def end(self, rank: int, seconds: float) -> list[tuple[int | None, str, float]]:
        return self.event(rank, "phase_end", phase="save", id=1, seconds=seconds)


def test_the_last_rank_of_a_phase_and_its_delay_are_known_when_all_have_ended() -> None:
    ranks = Ranks(3)
    for rank, mono in ((0, 10.0), (2, 10.5), (1, 14.0)):
        ranks.begin(rank, mono)
    assert ranks.end(1, 2.0) == [(1, "phase/save/seconds", 2.0)]
    assert ranks.end(2, 5.0) == [(2, "phase/save/seconds", 5.0)]
    assert ranks.end(0, 6.0) == [
        (0, "phase/save/seconds", 6.0),
        (None, "phase/save/arrival_skew_seconds", 4.0),
        (None, "phase/save/last_rank", 1.0),
        (None, "phase/save/duration_skew_seconds", 4.0),
        (None, "phase/save/slowest_rank", 0.0),
    ]


def test_a_rank_that_is_one_phase_ahead_is_compared_with_the_same_one_of_the_others() -> None:
    ranks = Ranks(2)
    ranks.begin(0, 1.0)
    ranks.end(0, 1.0)
    ranks.begin(0, 5.0)
    ranks.begin(1, 3.0)
    found = {name: value for rank, name, value in ranks.end(1, 1.0) if rank is None}
    assert found["phase/save/arrival_skew_seconds"] == 2.0


def test_a_single_rank_has_no_skew_and_a_restarted_one_is_counted_anew() -> None:
    alone = Ranks(1)
    alone.begin(0, 1.0)
    assert alone.end(0, 2.0) == [(0, "phase/save/seconds", 2.0)]
    ranks = Ranks(2)
    ranks.begin(0, 1.0)
    ranks.event(1, "process_start", world_size=2)
    ranks.begin(0, 8.0)
    ranks.begin(1, 9.0)
    ranks.end(0, 1.0)
    assert (None, "phase/save/arrival_skew_seconds", 1.0) in ranks.end(1, 1.0)


def test_after_a_restart_the_number_of_ranks_is_known_from_the_run_s_context() -> None:
    derivation = Derivation()
    streams = [{"role": "trainer", "start": {"world_size": 2}}]
    derivation.observe(frame(kind="event", event="run_context", role="rlhfd", fields={"streams": streams}))
    for rank in (0, 1):
        begun = frame(kind="event", event="phase_begin", fields={"phase": "save"}, rank=rank, mono_ns=rank * S)
        derivation.observe(begun)
    found = [
        derived.name
        for rank in (0, 1)
        for derived in derivation.observe(
            frame(kind="event", event="phase_end", fields={"phase": "save", "seconds": 1.0}, rank=rank)
        )
    ]
    assert "phase/save/arrival_skew_seconds" in found


def test_rounds_that_never_complete_do_not_pile_up() -> None:
    ranks = Ranks(2)
    for number in range(1000):
        ranks.begin(0, float(number))
    (kind,) = ranks.derivation._kinds.values()
    assert len(kind.rounds) <= 16


def test_when_the_last_rank_has_sent_a_step_the_greatest_work_is_put_against_the_mean() -> None:
    ranks = Ranks(3)
    assert ranks.work(0, 7, sequence_tokens=100.0, positions=400.0) == {}
    assert ranks.work(2, 7, sequence_tokens=200.0, positions=400.0) == {}
    assert ranks.work(1, 7, sequence_tokens=600.0, positions=1000.0) == pytest.approx(
        {"fullest_rank": 1, "rank_positions_imbalance": 3000 / 1800, "rank_tokens_imbalance": 2}
    )
    assert ranks.work(1, 7, sequence_tokens=600.0, positions=1000.0) == {}


def test_ranks_are_compared_step_by_step_though_one_is_ahead_and_each_metric_for_itself() -> None:
    ranks = Ranks(2)
    for step in range(1, 41):
        ranks.work(0, step, sequence_tokens=100.0 * step)
    for step in range(1, 41):
        assert ranks.work(1, step, sequence_tokens=300.0 * step) == {"rank_tokens_imbalance": 1.5}
    assert ranks.work(0, 41, sequence_tokens=1.0) == {}
    assert ranks.work(1, 41, positions=1.0) == {}


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_ranks_without_work_or_with_what_is_no_number_are_not_compared(value: float) -> None:
    ranks = Ranks(2)
    ranks.work(0, 1, positions=value)
    assert ranks.work(1, 1, positions=value) == {}
    ranks.work(0, 2, positions=0.0)
    assert ranks.work(1, 2, positions=5.0) == {"fullest_rank": 1, "rank_positions_imbalance": 2}


def test_neither_a_single_rank_nor_one_without_a_step_is_compared_and_a_restarted_one_begins_anew() -> None:
    assert Ranks(1).work(0, 1, positions=5.0) == {}
    ranks = Ranks(2)
    for rank in (0, 1):
        assert ranks.work(rank, None, positions=5.0) == {}
    ranks.work(0, 3, positions=5.0)
    ranks.event(1, "process_start", world_size=2)
    assert ranks.work(1, 3, positions=7.0) == {}
    assert ranks.work(0, 3, positions=7.0) == {"fullest_rank": 0, "rank_positions_imbalance": 1}
    ranks.work(0, 4, positions=5.0)
    ranks.derivation.forget("r", "b")
    assert ranks.derivation._works == {}
    assert ranks.work(1, 4, positions=7.0) == {}


def test_steps_whose_last_rank_never_comes_do_not_pile_up() -> None:
    ranks = Ranks(2)
    for step in range(1000):
        ranks.work(0, step, positions=1.0)
    (steps,) = ranks.derivation._works.values()
    assert list(steps) == list(range(1000 - MAX_STEPS, 1000))


def test_an_interpreter_adds_it_to_the_last_rank_s_samples_and_every_name_has_a_row() -> None:
    interpreter, found = Interpreter(), []
    for rank in (0, 1):
        start = frame(kind="event", event="process_start", fields={"world_size": 2}, rank=rank)
        assert interpreter.samples(start, S, 1) == []
    for rank in (0, 1):
        work = frame(metrics={"rlhfd/model/sequence_tokens": 1.0 + 2 * rank}, rank=rank, step=1)
        found.append(interpreter.samples(work, S, 2))
    assert [(sample.rank, sample.name, sample.value) for sample in found[1]] == [
        (1, "rlhfd/model/sequence_tokens", 3.0),
        (None, "rlhfd/model/rank_tokens_imbalance", 1.5),
    ]
    assert [name for name in (*BETWEEN_RANKS, *BETWEEN_RANKS.values(), *FULLEST.values()) if lookup(name) is None] == []


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"train/kl": 0.2, "train/policy_loss": -0.1}, {"rlhfd/ratio_of/kl_policy_loss": 2.0}),
        ({"train/critic_loss": 3.0, "train/policy_loss": 1.5}, {"rlhfd/ratio_of/value_policy_loss": 2.0}),
        ({"train/kl": 0.2, "train/policy_loss": 0.0}, {}),
        ({"train/kl": 0.2}, {}),
        ({"train/policy_loss": 0.2}, {}),
    ],
)
def test_ratios_need_both_sides(metrics: dict[str, float], expected: dict[str, float]) -> None:
    found = {derived.name: derived.value for derived in ratios(frame(metrics=metrics))}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (
            {"train/timing/step_total": 10.0, "train/timing/generation": 8.0, "train/timing/ppo_train": 2.0},
            {"rlhfd/ratio_of/generation_rest": 4.0, "rlhfd/ratio_of/ppo_train_rest": 0.25},
        ),
        (
            {"train/timing/step_total": 4.0, "train/timing/make_experience": 1.0, "train/timing/broadcast": 3.0},
            {"rlhfd/ratio_of/make_experience_rest": 1 / 3, "rlhfd/ratio_of/broadcast_rest": 3.0},
        ),
        ({"train/timing/step_total": 8.0, "train/timing/generation": 8.0}, {}),  # no rest
        ({"train/timing/step_total": 8.0, "train/timing/generation": 9.0}, {}),
        ({"train/timing/step_total": 8.0, "train/timing/generation": 0.0}, {}),
        ({"train/timing/step_total": math.nan, "train/timing/generation": 1.0}, {}),
        ({"train/timing/step_total": 8.0, "train/timing/generation": math.nan}, {}),
        ({"train/timing/step_total": 8.0, "train/timing/anything_else": 1.0}, {}),
        ({"train/timing/generation": 8.0, "train/policy_loss": 0.1}, {}),
    ],
)
def test_a_phase_is_put_against_the_rest_of_its_step(metrics: dict[str, float], expected: dict[str, float]) -> None:
    found = {derived.name: derived.value for derived in ratios(frame(metrics=metrics))}
    assert found == pytest.approx(expected)


def test_a_machine_that_is_slower_throughout_changes_no_share() -> None:
    timing = {"train/timing/step_total": 10.0, "train/timing/generation": 6.0, "train/timing/broadcast": 1.0}
    slower = {name: 3.7 * seconds for name, seconds in timing.items()}
    shares = [[derived.value for derived in ratios(frame(metrics=metrics))] for metrics in (timing, slower)]
    assert len(shares[0]) == 2
    assert shares[0] == pytest.approx(shares[1])


def test_what_is_derived_has_a_row_and_is_known_where_it_is_in_a_log_already() -> None:
    sources = {name for sides in RATIOS.values() for name in sides} | set(SHARES.values()) | {"train/timing/step_total"}
    assert derived_names(sources) == {*RATIOS, *SHARES}
    assert derived_names(sources - {"train/policy_loss"}) == set(SHARES)
    assert derived_names(sources - {"train/timing/step_total"}) == set(RATIOS)
    assert derived_names({"train/kl", "train/timing/step_total"}) == set()
    assert {name for name in (*RATIOS, *SHARES) if lookup(name) is None} == set()


def values(found: list[Sample]) -> dict[str, float]:
    return {sample.name: sample.value for sample in found}


ARGS = {"rollout.n_samples_per_prompt": 4, "algo.kl.init_coef": 0.0}
START = {"args": ARGS, "versions": {"openrlhf": "0.11.2"}, "trainer": "PPOTrainer"}
LOGGED = {"train/dynamic_filtering_pass_rate": 200.0, "train/kl": 0.0, "train/reward": 1.0}
UNEXPLAINED = {"train/kl": 0.0, "train/reward": 1.0}  # three versions log the pass rate in three units


@pytest.mark.parametrize(
    "told",
    [
        {"event": "run_start", "fields": START},
        {"event": "run_context", "fields": {"context": START}, "role": "rlhfd"},
    ],
)
def test_units_are_normalised_by_what_the_run_said_of_itself(told: dict[str, Any]) -> None:
    interpreter = Interpreter()
    assert values(interpreter.samples(frame(metrics=LOGGED), S, 1)) == UNEXPLAINED
    interpreter.samples(frame(kind="event", **told), S, 2)
    assert values(interpreter.samples(frame(metrics=LOGGED), S, 3)) == {
        "train/dynamic_filtering_pass_rate": 0.5,
        "train/reward": 1.0,
    }
    other = frame(metrics=LOGGED, boot="another")
    assert values(interpreter.samples(other, S, 4)) == UNEXPLAINED
    interpreter.forget("r", "b")
    assert values(interpreter.samples(frame(metrics=LOGGED), S, 5)) == UNEXPLAINED


def test_only_the_daemon_may_repeat_a_run_s_context() -> None:
    interpreter = Interpreter()
    interpreter.samples(frame(kind="event", event="run_context", fields={"context": START}), S, 1)
    assert values(interpreter.samples(frame(metrics=LOGGED), S, 2)) == UNEXPLAINED


def test_a_sample_has_the_identity_of_its_frame_and_not_a_number_stays_one() -> None:
    (sample,) = Interpreter().samples(frame(metrics={"x": math.nan}, rank=3, step=9), 5 * S, 42)
    assert (sample.run, sample.boot, sample.role, sample.rank, sample.step) == ("r", "b", "trainer", 3, 9)
    assert (sample.name, sample.time, sample.record_id) == ("x", 5.0, 42)
    assert math.isnan(sample.value)
