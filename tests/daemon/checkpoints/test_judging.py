"""What is wrong with a checkpoint, from what was found in it: steps, stale optimizers, moments, files, ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_trees import deepspeed, look, under, write
from rlhfd_daemon.checkpoints.comparison import Comparison
from rlhfd_daemon.checkpoints.defect import Defect
from rlhfd_daemon.checkpoints.examining import Examined, Key
from rlhfd_daemon.checkpoints.health import Issue
from rlhfd_daemon.checkpoints.judging import issues_of
from rlhfd_daemon.checkpoints.lacking import Missing
from rlhfd_daemon.checkpoints.layout import Description
from rlhfd_daemon.checkpoints.statistics import TensorStatistics
from rlhfd_daemon.checkpoints.training_state import TrainingState

TAG = Description("_actor/global_step20", "deepspeed", step=20, role="actor")
STATE = TrainingState(global_steps=40, skipped_steps=2, optimizer_steps=(38,), client={"global_step": 20})
PLAIN = TensorStatistics(
    dtype="float32", elements=100, nan=0, infinite=0, zeros=0, mean=0.0, std=0.02, min=-0.1, max=0.1, norm=0.2,
    largest=0.1, quantiles=None, quantiles_exact=False, constant=False,
)  # fmt: skip
MOVED = Comparison(
    elements=100, finite=100, changed=90, relative_update=0.01, cosine=1.0, norm_ratio=1.0, largest_change=0.01
)
STILL = replace(MOVED, changed=0, relative_update=0.0, largest_change=0.0)
WEIGHT, MASTER, MOMENT = ((kind, "model.layers.0.mlp.up_proj.weight") for kind in ("weight", "master", "exp_avg"))


def examined(tensors: dict[Key, TensorStatistics], comparisons: dict[Key, Comparison] | None = None) -> Examined:
    return Examined(tensors, dict.fromkeys(tensors, (10, 10)), {}, comparisons or {})


def found(one: Examined, state: TrainingState | None = None, before: TrainingState | None = None) -> list[Issue]:
    return issues_of(TAG, one, state, (), before)


def test_a_healthy_one_has_no_issue() -> None:
    tensors = {WEIGHT: PLAIN, MASTER: PLAIN, MOMENT: PLAIN}
    assert found(examined(tensors, dict.fromkeys(tensors, MOVED)), STATE, STATE) == []


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (replace(STATE, client={"global_step": 10}), "its training state is of global_step 10"),
        (replace(STATE, optimizer_steps=(18,)), "the optimizer has done 18 steps, the engine 40"),
        (replace(STATE, global_steps=30, optimizer_steps=(28,)), "30 optimizer steps, 40 in the one before"),
    ],
)
def test_steps_that_do_not_agree(state: TrainingState, said: str) -> None:
    (issue,) = found(examined({WEIGHT: PLAIN}), state, STATE)
    assert (issue.kind, issue.summary) == ("step", said)


@pytest.mark.parametrize(("said", "issues"), [(19, 1), (20, 0), (23, 0)])
def test_the_weights_of_the_best_may_be_later_than_their_evaluation_but_not_earlier(said: int, issues: int) -> None:
    state = replace(STATE, client={"global_step": said})
    assert len(issues_of(replace(TAG, best=True), examined({WEIGHT: PLAIN}), state)) == issues


def test_steps_that_are_not_known_are_no_issue() -> None:
    assert found(examined({WEIGHT: PLAIN}), TrainingState(), TrainingState()) == []
    assert found(examined({WEIGHT: PLAIN}), replace(STATE, optimizer_steps=(40,))) == [], "skipped steps may be counted"


def test_moments_of_the_checkpoint_before_are_a_stale_optimizer() -> None:
    tensors = {WEIGHT: PLAIN, MOMENT: PLAIN}
    (issue,) = found(examined(tensors, {WEIGHT: MOVED, MOMENT: STILL}))
    assert (issue.kind, issue.subject) == ("step", "optimizer")
    assert found(examined(tensors, {WEIGHT: STILL, MOMENT: STILL})) == [], "the same checkpoint twice"


def test_moments_that_are_not_finite_are_another_kind_than_weights() -> None:
    bad = replace(PLAIN, nan=1)
    assert [one.kind for one in found(examined({WEIGHT: PLAIN, MOMENT: bad}))] == ["moments_non_finite"]
    assert [one.kind for one in found(examined({WEIGHT: bad, MOMENT: PLAIN}))] == ["non_finite"]
    assert [one.kind for one in found(examined({WEIGHT: PLAIN, MASTER: bad}))] == ["non_finite"]


def test_one_nan_in_a_billion_is_found() -> None:
    huge = replace(PLAIN, elements=10**9, nan=1)
    (issue,) = found(examined({WEIGHT: huge}))
    assert issue.extent == pytest.approx(1e-9)
    assert "1 NaN and 0 infinite of 1000000000 elements" in issue.summary


def test_of_what_is_trained_in_float32_only_that_copy_counts_as_frozen() -> None:
    other = ("master", "model.layers.1.mlp.up_proj.weight")
    tensors = {WEIGHT: replace(PLAIN, dtype="bfloat16"), MASTER: PLAIN, other: PLAIN}
    assert found(examined(tensors, {WEIGHT: STILL, MASTER: MOVED, other: MOVED})) == []
    (issue,) = found(examined(tensors, {WEIGHT: STILL, MASTER: STILL, other: MOVED}))
    assert (issue.kind, issue.subject) == ("frozen", "model.layers.0.mlp.up_proj.weight (master)")


def test_nothing_is_frozen_if_hardly_anything_changed() -> None:
    other = ("weight", "model.layers.1.mlp.up_proj.weight")
    assert found(examined({WEIGHT: PLAIN, other: PLAIN}, {WEIGHT: STILL, other: STILL})) == []


def test_missing_and_broken_files_are_named_once() -> None:
    lacks = replace(TAG, missing=Missing.of(["zero_pp_rank_1_mp_rank_00_optim_states.pt"]))
    (issue,) = issues_of(lacks, examined({WEIGHT: PLAIN}))
    assert (issue.kind, issue.subject) == ("unreadable", "zero_pp_rank_1_mp_rank_00_optim_states.pt")
    told = Defect("missing", "zero_pp_rank_1_mp_rank_00_optim_states.pt", "is not there")
    assert len(issues_of(lacks, examined({WEIGHT: PLAIN}), None, [told])) == 1


def test_the_last_rank_is_missing_if_the_training_state_tells_of_it(tmp_path: Path) -> None:
    write(tmp_path, under("global_step20", deepspeed(2, 3)))
    tag = look(tmp_path).checkpoints[0]
    assert not tag.missing, "names alone do not tell"
    one, four = examined({WEIGHT: PLAIN}), replace(STATE, dp_world_size=4)
    (issue,) = issues_of(tag, one, four, every_rank=True)
    assert (issue.kind, issue.subject) == ("unreadable", "bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt")
    assert issue.summary == "is missing: the training state is of 4 data-parallel ranks"
    assert issues_of(tag, one, four) == [], "they may be on another node"
    assert issues_of(tag, one, replace(STATE, dp_world_size=3), every_rank=True) == []


def test_a_file_that_would_run_code_is_refused_and_notes_are_no_issues() -> None:
    unsafe, note = Defect("unsafe", "a.pt", "calls os.system"), Defect("shared", "a.pt", "tied")
    (issue,) = issues_of(TAG, examined({WEIGHT: PLAIN}), None, [unsafe, note])
    assert issue.kind == "refused"
