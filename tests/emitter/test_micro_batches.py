"""How full micro-batches are: padded and packed, without tokens, and what the hooks do where a mask is missing."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiences import maker, tensor
from in_place import process_of, recorder
from openrlhf.recomputed_filling import filling
from rlhfd_emitter.hook import MAX_FAILURES
from rlhfd_emitter.process import Process
from rlhfd_emitter.signals import supervised, training
from rlhfd_emitter.signals.micro_batches import Layout, Masks, MicroBatch, summary
from rlhfd_emitter.wrappers import after, before
from trainings import made_up, run

LONG_AND_SHORT = [MicroBatch(2, 10, 14), MicroBatch(2, 4, 6)]
FIELDS = ("micro_batches", "sequence_tokens", "positions", "micro_batch_tokens_mean", "micro_batch_tokens_max",
          "micro_batch_imbalance", "padding_ratio")  # fmt: skip


def of(*batches: MicroBatch, layout: Layout = Layout()) -> dict[str, float]:
    return {name.removeprefix("x/"): value for name, value in summary("x", batches, layout).items()}


def test_padded_micro_batches_by_hand() -> None:
    values = of(*LONG_AND_SHORT)
    assert values == {
        "micro_batches": 2, "sequence_tokens": 20, "positions": 28, "micro_batch_tokens_mean": 10,
        "micro_batch_tokens_max": 14, "micro_batch_imbalance": 1.4, "padding_ratio": pytest.approx(8 / 28),
    }  # fmt: skip
    assert tuple(values) == FIELDS


def test_packed_ones_have_only_the_padding_to_the_ring_s_multiple() -> None:
    alone, ring = (of(*LONG_AND_SHORT, layout=Layout(True, multiple)) for multiple in (1, 4))
    assert (alone["positions"], alone["padding_ratio"], alone["packing_efficiency_ratio"]) == (20, 0, 1)
    assert ring["positions"] == 16 + 8
    assert (ring["packing_efficiency_ratio"], ring["padding_ratio"]) == pytest.approx((20 / 24, 4 / 24))
    assert "packing_efficiency_ratio" not in of(*LONG_AND_SHORT, layout=Layout(False, 4))


def test_the_fill_of_dynamic_ones_is_against_their_limit_and_may_exceed_it() -> None:
    values = of(*LONG_AND_SHORT, layout=Layout(True, 1, 12))
    assert (values["micro_batch_fill_mean"], values["micro_batch_fill_max"]) == pytest.approx((10 / 12, 14 / 12))


@pytest.mark.parametrize("layout", [Layout(), Layout(True, 4, 100)])
def test_one_row_has_no_padding_none_has_no_metric_and_no_token_no_share(layout: Layout) -> None:
    assert of(layout=layout) == {}
    one = of(MicroBatch(1, 8, 8), layout=layout)
    assert (one["padding_ratio"], one["micro_batch_imbalance"]) == (0, 1)
    empty = of(MicroBatch(2, 5, 0), layout=layout)
    assert (empty["sequence_tokens"], empty["micro_batch_tokens_max"]) == (0, 0)
    assert "micro_batch_imbalance" not in empty
    assert empty.get("padding_ratio") == (None if layout.packed else 1)
    assert of(MicroBatch(0, 0, 0), layout=layout)["positions"] == 0


ARGS: dict[str, Any] = {
    "ds.packing_samples": True, "ds.ring_attn_size": 2, "ds.tensor_parallel_size": 3,
    "train.dynamic_batch_enable": True, "train.max_tokens_per_gpu": 100, "rollout.max_tokens_per_gpu": 50,
}  # fmt: skip


def test_the_layout_follows_from_the_arguments_dotted_or_flat() -> None:
    dotted = maker(ARGS).args
    flat = SimpleNamespace(packing_samples=True, ring_attn_size=2, ds_tensor_parallel_size=3, use_dynamic_batch=True,
                           train_max_tokens_per_gpu=100, rollout_max_tokens_per_gpu=50)  # fmt: skip
    for args in (dotted, flat):
        assert Layout.of(args) == Layout(True, 2, 600)
        assert Layout.of(args, "rollout") == Layout(True, 2, 300)
    assert Layout.of(SimpleNamespace()) == Layout()
    assert Layout.of(None) is None
    assert summary("x", LONG_AND_SHORT, None) == {}
    fixed = maker({**ARGS, "train.dynamic_batch_enable": False}).args
    assert Layout.of(fixed) == Layout(True, 2, None)


SHAPES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**45 - 1)), min_size=1, max_size=6)


@given(SHAPES, st.booleans(), st.integers(1, 8), st.integers(1, 3), st.none() | st.integers(1, 60))
def test_masks_of_any_shape_say_what_their_cells_say(
    shapes: list[tuple[int, int, int]], packed: bool, ring: int, tensors: int, limit: int | None
) -> None:
    masks = [
        np.array([bits >> place & 1 for place in range(rows * width)]).reshape(rows, width)
        for rows, width, bits in shapes
    ]
    args: dict[str, Any] = {
        "ds.packing_samples": packed, "ds.ring_attn_size": ring, "ds.tensor_parallel_size": tensors,
        "train.dynamic_batch_enable": limit is not None, "train.max_tokens_per_gpu": limit,
    }  # fmt: skip
    held = Masks()
    for mask in masks:
        held.put(tensor(mask))
    values = summary("rlhfd/policy", held.take(), Layout.of(maker(args).args))
    assert values == pytest.approx(filling("policy", masks, args, "train"), abs=1e-12)
    assert 0 <= values.get("rlhfd/policy/padding_ratio", 0) <= 1
    assert held.take() == []


def test_masks_of_two_widths_are_one_micro_batch_of_the_wider_and_a_single_sequence_is_a_row() -> None:
    held = Masks()
    held.put(tensor([[1, 1, 0]]), tensor([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0]]))
    held.put(tensor([True, True, False]))
    assert held.take() == [MicroBatch(3, 5, 7), MicroBatch(1, 3, 2)]


@pytest.fixture
def process() -> Process:
    return process_of("PolicyModelActor")


def of_filling(values: dict[str, float]) -> list[str]:
    return [name for name in values if name.rpartition("/")[2] in FIELDS]


def test_a_micro_batch_without_a_mask_or_with_a_broken_one_takes_the_step_s_figures_with_it(process: Process) -> None:
    arrays = {name: value for name, value in made_up(3, "policy").items() if not name.endswith("attention_mask")}
    assert of_filling(run(process, "policy", arrays)) == []
    assert recorder(process).events == []
    good, broken = made_up(4, "critic"), made_up(4, "critic")
    broken["0/attention_mask"] = np.array(3)
    values = run(process, "critic", broken)
    assert of_filling(values) == []
    assert "rlhfd/critic/tokens" in values
    assert [fields["hook"] for _, fields in recorder(process).events] == ["signals.micro_batch"]
    assert len(of_filling(run(process, "critic", good))) == len(FIELDS)


def test_nothing_is_counted_outside_of_a_training_call_nor_in_a_muted_process(process: Process) -> None:
    collate = after(training.collated)(process, lambda batch: batch)
    untouchable = object()
    assert collate(untouchable) is untouchable
    recorder(process).muted = True
    assert training.ppo_train("policy")(process, lambda trainer: collate(untouchable))(None) is untouchable
    assert (recorder(process).events, recorder(process).metrics) == ([], [])


class Supervised:
    """The hooks of one rank of ``trainer`` round functions of OpenRLHF's shapes."""

    def __init__(self, trainer: str, **args: Any) -> None:
        self.process = process_of(trainer)
        self.trainer = SimpleNamespace(strategy=SimpleNamespace(args=maker(args).args))
        self.model: Any = SimpleNamespace(training=True)

        def forward(self: Any, sequences: Any, action_mask: Any = None, attention_mask: Any = None) -> str:
            return "log_probs"

        def concatenated_forward(self: Any, model: Any, chosen: Any, c_mask: Any, reject: Any, r_mask: Any) -> str:
            return "rewards"

        def save(self: Any, args: Any, global_step: int, step_bar: Any) -> str:
            return "saved"

        self._forward = before(supervised.forward)(self.process, forward)
        self._pairs = before(supervised.forward_pairs)(self.process, concatenated_forward)
        self._save = before(supervised.step_end)(self.process, save)

    def forward(self, mask: Any) -> None:
        assert self._forward(self.model, "ids", attention_mask=mask) == "log_probs"

    def pairs(self, chosen: Any, rejected: Any, model: Any = None) -> None:
        assert self._pairs(self.trainer, model or self.model, "ids", chosen, "ids", rejected) == "rewards"

    def step(self, number: int) -> dict[str, float]:
        """The metrics that the end of the step adds."""
        sent = len(recorder(self.process).metrics)
        assert self._save(self.trainer, None, number, None) == "saved"
        ((step, values),) = recorder(self.process).metrics[sent:] or [(number, {})]
        assert step == number
        return {name.removeprefix("rlhfd/model/"): value for name, value in values.items()}


MASK = tensor([[1, 1, 1, 1], [1, 0, 0, 0]])


def test_a_step_of_sft_has_the_micro_batches_since_the_last_one_without_those_of_evaluations() -> None:
    rank = Supervised("SFTTrainer")
    rank.forward(MASK)
    rank.forward(MASK[:1])
    rank.model.training = False
    rank.forward(tensor([[0, 0, 0, 0]]))
    rank.model.training = True
    first = rank.step(1)
    assert (first["micro_batches"], first["positions"], first["padding_ratio"]) == (2, 12, 0.25)
    assert rank.step(2) == {}
    rank.forward(MASK[1:])
    assert rank.step(3)["padding_ratio"] == 0.75


def test_packed_sft_has_no_padding() -> None:
    rank = Supervised("SFTTrainer", **{"ds.packing_samples": True, "ds.ring_attn_size": 2})
    rank.forward(MASK)
    assert rank.step(1)["packing_efficiency_ratio"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("trainer", ["RewardModelTrainer", "DPOTrainer"])
def test_pairs_are_one_micro_batch_and_neither_the_reference_model_s_nor_an_evaluation_s(trainer: str) -> None:
    rank = Supervised(trainer)
    # DeepSpeed's engine stays in training whatever its module is in.
    evaluating = SimpleNamespace(training=True, module=SimpleNamespace(training=False))
    rank.pairs(MASK, tensor([[1, 1]]))
    rank.pairs(MASK, MASK, evaluating)
    rank.forward(MASK)
    values = rank.step(1)
    assert (values["micro_batches"], values["sequence_tokens"], values["positions"]) == (1, 7, 12)
    rank.pairs(MASK, MASK, SimpleNamespace(training=False, module=SimpleNamespace(training=True)))
    assert rank.step(2)["sequence_tokens"] == 10


def test_other_processes_touch_no_mask() -> None:
    for role in ("PolicyModelActor", "ReferenceModelActor"):
        rank = Supervised(role)
        rank.forward(object())
        rank.pairs(object(), object())
        assert rank.step(1) == {}
        assert recorder(rank.process).events == []


def test_a_step_that_was_not_seen_whole_says_nothing_and_the_next_one_does() -> None:
    rank = Supervised("SFTTrainer")
    rank.forward(MASK)
    rank.forward(None)
    assert rank.step(1) == {}
    recorder(rank.process).muted = True
    rank.forward(MASK)
    recorder(rank.process).muted = False
    rank.forward(MASK)
    assert rank.step(2) == {}
    rank.forward(MASK)
    assert rank.step(3)["micro_batches"] == 1
    assert recorder(rank.process).events == []


def test_masks_that_cannot_be_counted_are_reported_left_alone_and_not_held() -> None:
    rank = Supervised("SFTTrainer")
    for _ in range(MAX_FAILURES + 2):
        rank.forward("no mask")
        assert rank.step(1) == {}
    events = [(fields["hook"], fields["disabled"]) for _, fields in recorder(rank.process).events]
    assert events == [("signals.micro_batch", False), ("signals.micro_batch", True)]
    mask: Any = tensor([[1, 1]])
    gone = weakref.ref(mask)
    rank.forward(mask)
    mask = None
    gc.collect()
    assert gone() is None
