"""The signals of a model actor's training: their values, what is absent, what a failure costs, and their step."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiences import maker, tensor
from in_place import process_of, recorder
from openrlhf import recomputed_training
from rlhfd_emitter.hook import MAX_FAILURES
from rlhfd_emitter.process import Process
from rlhfd_emitter.signals import position, training
from rlhfd_emitter.signals.totals import Rows, Totals, read
from rlhfd_emitter.signals.training import Training
from rlhfd_emitter.wrappers import before
from trainings import Engine, PolicyLoss, made_up, run

NAN = math.nan
RECOMPUTED = {"policy": recomputed_training.policy, "critic": recomputed_training.critic}


@pytest.fixture
def process() -> Process:
    return process_of("PolicyModelActor")


def policy_call(*rows: tuple[float, float, float], **more: Any) -> dict[str, Any]:
    """One micro-batch of one sequence: log ratio, old log-probability and advantage of each token."""
    logs, old, advantages = (np.array([column]) for column in zip(*rows, strict=True))
    fields = {"log_probs": old + logs, "old_log_probs": old, "advantages": advantages}
    arrays = {f"0/{name}": values for name, values in fields.items()}
    return {**arrays, "0/action_mask": np.ones((1, len(rows)), np.int64), "norms": [1.0], "steps": [1], **more}


def critic_call(*rows: tuple[float, float, float], **more: Any) -> dict[str, Any]:
    """One micro-batch of one sequence: value, old value and return of each token."""
    columns = [np.array([column]) for column in zip(*rows, strict=True)]
    arrays = {f"0/{name}": values for name, values in zip(("values", "old_values", "returns"), columns, strict=True)}
    return {**arrays, "0/action_mask": np.ones((1, len(rows)), np.int64), "norms": [1.0], "steps": [1], **more}


def test_values_of_the_policy_by_hand(process: Process) -> None:
    double, half, same = math.log(2), -math.log(2), 0.0
    call = policy_call((double, -1, 1), (double, -1, -1), (half, -1, 1), (half, -1, -1), (same, -1, 1), low=0.2, high=1)
    call["high"] = 0.5
    values = run(process, "policy", call)
    assert {name.removeprefix("rlhfd/"): value for name, value in values.items()} == pytest.approx(
        {
            "ratio/mean": 6 / 5, "ratio/max": 2, "ratio/min": 0.5, "ratio/ess_ratio": 36 / (5 * 9.5),
            "ratio/below_ratio": 0.4, "ratio/above_ratio": 0.4, "ratio/outside_ratio": 0.8,
            "ratio/clipped_low_ratio": 0.2, "ratio/clipped_high_ratio": 0.2,
            "policy_kl/k1": 0, "policy_kl/k3": 1 / 5, "policy/tokens": 5,
            "policy/optimizer_steps": 1, "policy/skipped_steps": 0,
            "policy/gradient_norm_mean": 1, "policy/gradient_norm_max": 1, "policy/gradient_norm_last": 1,
        }
    )  # fmt: skip


def test_values_of_the_critic_by_hand(process: Process) -> None:
    # Moved beyond the clip and away from the return, towards it, and not beyond the clip.
    values = run(process, "critic", critic_call((3, 0, 4), (2, 0, -1), (0.2, 0, 1), clip=0.5))
    assert {name.removeprefix("rlhfd/"): value for name, value in values.items()} == pytest.approx(
        {
            "critic/value_clipped_ratio": 1 / 3, "critic/tokens": 3,
            "critic/explained_variance": 1 - np.var([1, -3, 0.8]) / np.var([4, -1, 1]),
            "critic/optimizer_steps": 1, "critic/skipped_steps": 0,
            "critic/gradient_norm_mean": 1, "critic/gradient_norm_max": 1, "critic/gradient_norm_last": 1,
        }
    )  # fmt: skip


@pytest.mark.parametrize("kind", RECOMPUTED)
@pytest.mark.parametrize("seed", range(40))
def test_values_of_made_up_calls_equal_their_recomputation(seed: int, kind: str, process: Process) -> None:
    arrays = made_up(seed, kind)
    assert run(process, kind, arrays) == pytest.approx(RECOMPUTED[kind](arrays), rel=1e-9, abs=1e-9)
    assert recorder(process).events == []


def test_what_is_masked_is_neither_the_greatest_nor_the_least_ratio(process: Process) -> None:
    for logs in (0.5, -0.5):
        call = policy_call((logs, -1, 1), (0, -1, 1))
        call["0/action_mask"][0][1] = 0
        values = run(process, "policy", call)
        assert (values["rlhfd/ratio/min"], values["rlhfd/ratio/max"]) == pytest.approx((math.exp(logs),) * 2)


def test_what_rounding_does_to_a_value_within_the_clip_is_no_clipping(process: Process) -> None:
    assert 0.4 + (0.1 - 0.4) < 0.1
    assert run(process, "critic", critic_call((0.1, 0.4, 0.1), clip=0.5))["rlhfd/critic/value_clipped_ratio"] == 0


def test_with_gspo_no_token_has_a_ratio_of_its_own(process: Process) -> None:
    values = run(process, "policy", policy_call((0.5, -1, 1), low=0.2, high=0.2), policy_loss_type="gspo")
    assert [name for name in values if "ratio" in name] == []
    assert values["rlhfd/policy_kl/k1"] == -0.5


def test_the_one_clip_bound_of_0_8_0_is_both_and_without_a_bound_nothing_is_clipped(process: Process) -> None:
    call = policy_call((-1, -1, -1), (1, -1, 1))
    values = run(process, "policy", call, clip_eps=0.2)
    assert (values["rlhfd/ratio/clipped_low_ratio"], values["rlhfd/ratio/clipped_high_ratio"]) == (0.5, 0.5)
    assert [name for name in run(process, "policy", call) if "clip" in name or "outside" in name] == []
    assert "rlhfd/critic/value_clipped_ratio" not in run(process, "critic", critic_call((1, 0, 0)), clip_eps=None)


def test_returns_that_are_all_equal_explain_nothing(process: Process) -> None:
    values = run(process, "critic", critic_call(*[(each, 0, 0.1) for each in range(10)]))
    assert "rlhfd/critic/explained_variance" not in values
    assert recorder(process).events == []


def test_what_is_no_number_shows_and_is_counted(process: Process) -> None:
    values = run(process, "policy", policy_call((NAN, -1, 1), (0.5, -1, 1), low=0.2, high=0.2))
    spoilt = {name.removeprefix("rlhfd/") for name, value in values.items() if math.isnan(value)}
    assert spoilt == {"ratio/mean", "ratio/max", "ratio/min", "ratio/ess_ratio", "policy_kl/k1", "policy_kl/k3"}
    assert (values["rlhfd/ratio/nonfinite_ratio"], values["rlhfd/ratio/above_ratio"]) == (0.5, 0.5)
    assert math.isnan(run(process, "critic", critic_call((NAN, 0, 1), (1, 0, 2)))["rlhfd/critic/explained_variance"])


def test_a_ratio_beyond_all_numbers_is_clamped(process: Process) -> None:
    values = run(process, "policy", policy_call((math.inf, -1, 1), (-900, -1, 1)))
    assert (values["rlhfd/ratio/max"], values["rlhfd/ratio/min"]) == pytest.approx((math.exp(20), math.exp(-20)))
    assert values["rlhfd/ratio/nonfinite_ratio"] == 0.5


def test_a_call_without_a_response_token_has_only_its_optimizer_steps(process: Process) -> None:
    for kind, call in (("policy", policy_call((0.5, -1, 1))), ("critic", critic_call((1, 0, 0)))):
        call["0/action_mask"] *= 0
        assert {name.rpartition("/")[2].partition("_")[0] for name in run(process, kind, call)} == {
            "optimizer", "skipped", "gradient",
        }  # fmt: skip
    assert recorder(process).events == []


def many(kind: str, count: int) -> dict[str, Any]:
    """The same micro-batch ``count`` times."""
    one = {"policy": policy_call((0.5, -1, 1)), "critic": critic_call((1, 0, 0.5), (2, 0, 1))}[kind]
    batches = {f"{i}{name[1:]}": value for i in range(count) for name, value in one.items() if "/" in name}
    return {"norms": [1.0] * count, "steps": [1] * count, **batches}


def test_only_what_the_engine_did_is_a_step_and_a_skipped_one_has_no_norm(process: Process) -> None:
    engine = Engine([3.0, None, tensor(1.0)], accumulation=2, global_steps=70)
    values = run(process, "policy", many("policy", 6), engine=engine)
    found = {name.rpartition("/")[2]: value for name, value in values.items() if "/policy/" in name}
    assert found == {
        "tokens": 6, "optimizer_steps": 2, "skipped_steps": 1,
        "gradient_norm_mean": 2, "gradient_norm_max": 3, "gradient_norm_last": 1,
    }  # fmt: skip


def test_a_norm_that_is_no_number_spoils_what_it_must_and_one_that_is_not_there_is_absent(process: Process) -> None:
    values = run(process, "critic", many("critic", 2), engine=Engine([NAN, 2.0]))
    assert math.isnan(values["rlhfd/critic/gradient_norm_max"])
    assert values["rlhfd/critic/gradient_norm_last"] == 2
    engine = Engine([0.0, 0.0])
    engine.get_global_grad_norm = lambda: None  # type: ignore[method-assign]
    values = run(process, "critic", many("critic", 2), engine=engine)
    assert [name for name in values if "gradient" in name] == []
    assert values["rlhfd/critic/optimizer_steps"] == 2


def test_an_engine_that_does_not_count_its_steps_has_none(process: Process) -> None:
    engine = SimpleNamespace(step=lambda: None, get_global_grad_norm=lambda: 1.0)
    values = run(process, "critic", many("critic", 2), engine=engine)
    assert [name for name in values if "steps" in name or "gradient" in name] == []
    assert recorder(process).events == []


def test_a_step_whose_norm_cannot_be_read_leaves_out_all_of_them_and_is_reported(process: Process) -> None:
    engine = Engine([1.0, "broken", 1.0])
    values = run(process, "critic", many("critic", 3), engine=engine)
    assert [name for name in values if "steps" in name or "gradient" in name] == []
    assert "rlhfd/critic/explained_variance" in values
    assert [fields["hook"] for _, fields in recorder(process).events] == ["signals.gradient"]


def test_a_micro_batch_that_fails_takes_its_signals_of_the_whole_step_with_it(process: Process) -> None:
    call = many("policy", 2)
    call["1/advantages"] = np.ones((1, 9))
    assert [name for name in run(process, "policy", call) if "ratio" in name or "kl" in name] == []
    ((kind, fields),) = recorder(process).events
    assert (kind, fields["hook"]) == ("hook_failed", "signals.policy")
    assert "(1, 9) is not like action_mask (1, 1)" in str(fields["error"])
    assert "rlhfd/ratio/mean" in run(process, "policy", many("policy", 2))


def test_after_three_failures_in_a_row_the_losses_are_left_alone(process: Process) -> None:
    class Broken(np.ndarray[Any, Any]):
        touched = 0

        def detach(self) -> Any:
            Broken.touched += 1
            raise RuntimeError("no such operation")

    for _ in range(2):
        values = run(process, "policy", many("policy", 4), make=lambda array: np.asarray(array).view(Broken))
        assert values["rlhfd/policy/optimizer_steps"] == 4
    assert Broken.touched == MAX_FAILURES


def test_outside_of_a_training_call_and_in_a_muted_process_no_tensor_is_touched(process: Process) -> None:
    class Untouchable:
        pass

    forward = before(training.policy_loss)(process, PolicyLoss.forward)
    assert forward(PolicyLoss(), Untouchable(), Untouchable(), Untouchable(), action_mask=Untouchable()) == "loss"
    assert recorder(process).events == []
    recorder(process).muted = True
    assert run(process, "policy", many("policy", 2), make=lambda array: Untouchable()) == {}
    assert (recorder(process).metrics, recorder(process).events) == ([], [])


def test_the_error_of_a_training_call_is_the_caller_s_and_nothing_is_held_after_it(process: Process) -> None:
    forward = before(training.policy_loss)(process, PolicyLoss.forward)
    values: Any = tensor([[1.0]])
    gone = weakref.ref(values)

    def train() -> None:
        forward(PolicyLoss(), values, values, values, action_mask=tensor([[1]]))
        raise KeyError("of OpenRLHF")

    with pytest.raises(KeyError, match="of OpenRLHF"):
        training.ppo_train("policy")(process, train)()
    assert process.shared(Training).call is None
    values = None
    gc.collect()
    assert gone() is None
    assert recorder(process).metrics == []


def test_the_frame_says_what_it_cost(process: Process) -> None:
    def train() -> None:
        before(training.value_loss)(process, lambda self, values, old_values, returns, action_mask: None)(
            None, *[tensor([[1.0]])] * 3, action_mask=tensor([[1]])
        )

    training.ppo_train("critic")(process, train)()
    ((_, values),) = recorder(process).metrics
    assert values["rlhfd/overhead/training_seconds"] > 0


def test_totals_are_as_large_after_many_micro_batches_as_after_one() -> None:
    totals = Totals(["greatest"])
    for number in range(1000):
        totals.add({"sum": tensor(1.0), "greatest": tensor(float(-number))})
    held = totals.complete()
    assert dict(zip(held, read(list(held.values())), strict=True)) == {"sum": 1000, "greatest": 0}
    totals.add({"sum": tensor(1.0)})
    assert list(totals.complete()) == ["sum"]


@pytest.mark.parametrize(("positions", "batches"), [(1, 256), (40, 256), (65_536, 2)])
@pytest.mark.parametrize("kind", RECOMPUTED)
def test_values_do_not_depend_on_how_many_micro_batches_are_computed_at_once(
    process: Process, kind: str, positions: int, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rows, "positions", positions)
    monkeypatch.setattr(Rows, "batches", batches)
    for seed in range(10):
        arrays = made_up(seed, kind)
        assert run(process, kind, arrays) == pytest.approx(RECOMPUTED[kind](arrays), rel=1e-9, abs=1e-9)


def test_a_loss_that_is_set_anew_has_its_bounds_from_then_on(process: Process) -> None:
    forward = before(training.policy_loss)(process, PolicyLoss.forward)
    log_probs, mask = tensor([[0.3]]), tensor([[1]])

    def train() -> None:
        for high in (0.2, 0.2, 0.5):
            forward(PolicyLoss(clip_eps_low=0.2, clip_eps_high=high), log_probs, log_probs * 0, mask, action_mask=mask)

    training.ppo_train("policy")(process, train)()
    ((_, values),) = recorder(process).metrics
    assert values["rlhfd/ratio/above_ratio"] == pytest.approx(2 / 3)


def test_what_becomes_of_a_tensor_after_its_loss_changes_nothing(process: Process) -> None:
    forward = before(training.policy_loss)(process, PolicyLoss.forward)

    def train() -> None:
        log_probs = tensor([[0.5]])
        forward(PolicyLoss(), log_probs, log_probs * 0, log_probs, action_mask=tensor([[1]]))
        log_probs[:] = NAN

    training.ppo_train("policy")(process, train)()
    assert recorder(process).metrics[0][1]["rlhfd/policy_kl/k1"] == -0.5


def test_what_is_kept_of_micro_batches_is_bounded() -> None:
    rows = Rows()
    for width in (1, 0):
        while rows.has_room_for(1024 * width):
            rows.put([tensor([[0.0] * 1024 * width])] * 4)
        assert len(rows) == (64 if width else Rows.batches)
        kept, mask = rows.take()
        assert (kept.shape, mask.shape, len(rows)) == ((3, 65_536 * width), (65_536 * width,), 0)
    assert rows.has_room_for(1_000_000)


def test_numbers_and_tensors_are_read_together() -> None:
    assert read([]) == []
    assert read([2.5, 3]) == [2.5, 3]
    assert read([1.5, tensor(2.0), 7]) == [1.5, 2, 7]


Batch = Callable[..., None]


@pytest.fixture
def batch(process: Process) -> Batch:
    """``execute_batch`` of an actor under observation."""

    def execute_batch(self: Any, method_name: str, all_data: Any, start_idx: int, end_idx: int) -> None: ...

    hooked = before(position.appended)(process, execute_batch)
    return lambda method, actor=None: hooked(actor, method, {}, 0, 0)


def test_the_step_is_counted_by_the_batches_that_were_appended(process: Process, batch: Batch) -> None:
    for step in (1, 2):
        batch("forward")
        batch("append")
        run(process, "policy", many("policy", 2))
        assert recorder(process).metrics[-1][0] == step
    batch("append")  # the policy is frozen in this step, and only the critic trains
    batch("append")
    run(process, "policy", many("policy", 2))
    assert recorder(process).metrics[-1][0] == 4


@pytest.mark.parametrize(
    ("result", "step"),
    [
        (("ckpt/_actor/global_step6/mp_rank_00_model_states.pt", {"global_step": 7}), 8),
        (("ckpt/_critic/global_step40/mp_rank_00_model_states.pt", {}), 41),
        (("ckpt/_critic/best_global_step9/mp_rank_00_model_states.pt", {}), 10),
        (("ckpt/_actor/global_step6/x.pt", {"consumed_samples": 640}), 7),
        (("ckpt/_actor/mine/x.pt", {}), None),
        ((None, {}), None),
    ],
)
def test_behind_a_checkpoint_the_step_goes_on_where_that_is_known(
    process: Process, batch: Batch, result: Any, step: int | None
) -> None:
    position.loaded(process, result)
    batch("append")
    run(process, "critic", many("critic", 1))
    assert recorder(process).metrics[0][0] == step


def test_a_critic_without_a_checkpoint_does_not_know_the_step_of_a_policy_that_had_one(
    process: Process, batch: Batch, tmp_path: Path
) -> None:
    args = {"ckpt.path": str(tmp_path), "ckpt.load_enable": True}
    actor = SimpleNamespace(strategy=SimpleNamespace(args=maker(args).args))
    batch("append", actor)
    assert process.shared(position.Position).step == 1
    process.shared(position.Position).__init__()  # type: ignore[misc]
    (tmp_path / "_actor").mkdir()
    batch("append", actor)
    assert process.shared(position.Position).step is None
