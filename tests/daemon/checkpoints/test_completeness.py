"""Complete, in progress, broken or gone: the decision, by what was seen when and what the processes say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_trees import adapter, deepspeed, export, look, metric, torch_archive, under, universal, write
from rlhfd_daemon.checkpoints.completeness import Known, Limits, Sighting, State, Verdict, as_dated, judge
from rlhfd_daemon.checkpoints.layout import Description

LIMITS = Limits(settle_seconds=10, broken_seconds=100)
DONE = {**deepspeed(2, 4), "metric.json": metric()}
HALF = {name: content for name, content in deepspeed(2, 4).items() if "rank_1_" not in name}


def found_in(folder: Path, files: dict[str, bytes], name: str = "global_step4") -> Description:
    (one,) = look(write(folder, under(name, files), age_seconds=1000)).checkpoints
    return one


@pytest.fixture
def done(tmp_path: Path) -> Description:
    return found_in(tmp_path / "done", DONE)


@pytest.fixture
def plain(tmp_path: Path) -> Description:
    """All files, without metric.json."""
    return found_in(tmp_path / "plain", deepspeed(2, 4))


@pytest.fixture
def half(tmp_path: Path) -> Description:
    return found_in(tmp_path / "half", HALF)


def told(found: Description, quiet: float | None, known: Known = Known()) -> Verdict:
    """The verdict of one that has been as it is for ``quiet`` seconds, or is seen for the first time."""
    now = (found.newest or 0) + 50
    before = None if quiet is None else Sighting(found, now - quiet)
    return judge(found, before, now, known, LIMITS)


def test_what_is_gone_has_vanished(done: Description) -> None:
    assert judge(None, Sighting(done, 0), 10).state is State.VANISHED


def test_metric_json_proves_completeness_at_once(done: Description) -> None:
    verdict = told(done, None)
    assert (verdict.state, verdict.missing, verdict.cut_off) == (State.COMPLETE, None, ())
    assert "metric.json" in verdict.reason


def test_latest_proves_nothing(tmp_path: Path) -> None:
    files = {**under("global_step4", deepspeed(2, 4)), "latest": b"global_step4"}
    (found,) = look(write(tmp_path, files)).checkpoints
    assert found.latest is True
    assert told(found, None).state is State.IN_PROGRESS


def test_without_metric_json_time_or_the_end_of_the_phase_proves_it(plain: Description) -> None:
    newest = plain.newest
    assert newest is not None
    assert told(plain, None).state is State.IN_PROGRESS
    assert told(plain, 9).state is State.IN_PROGRESS
    assert told(plain, 10).state is State.COMPLETE
    assert "without the metric.json" in told(plain, 10).reason
    assert told(plain, 0, Known(saved_at=newest + 1)).state is State.COMPLETE
    assert told(plain, 0, Known(saved_at=newest - 60)).state is State.IN_PROGRESS  # that was an earlier one
    assert told(plain, 0, Known(saved_at=newest + 1, failed="CUDA error")).state is State.IN_PROGRESS


def test_what_lacks_a_file_is_broken_only_when_nobody_writes_it_any_more(half: Description) -> None:
    newest = half.newest
    assert newest is not None
    for quiet, known, state in (
        (None, Known(), State.IN_PROGRESS),
        (99, Known(), State.IN_PROGRESS),
        (100, Known(), State.INCOMPLETE),
        (100, Known(saving_since=newest - 3), State.IN_PROGRESS),
        (9, Known(alive=False), State.IN_PROGRESS),
        (10, Known(alive=False), State.INCOMPLETE),
        (10, Known(alive=True), State.IN_PROGRESS),
        (10, Known(saved_at=newest + 1), State.INCOMPLETE),
        (10, Known(saved_at=newest + 1, failed="OSError: No space left"), State.INCOMPLETE),
        (10, Known(saved_at=newest - 60), State.IN_PROGRESS),
    ):
        verdict = told(half, quiet, known)
        assert verdict.state is state, (quiet, known)
        assert verdict.missing is not None
        assert verdict.missing.names == ("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",)
    assert "No space left" in told(half, 10, Known(saved_at=newest + 1, failed="OSError: No space left")).reason


def test_a_clock_of_the_file_server_that_is_hours_behind_makes_nothing_broken(half: Description) -> None:
    newest = half.newest
    assert newest is not None
    assert judge(half, None, newest + 36000, Known(), LIMITS).state is State.IN_PROGRESS
    assert judge(half, as_dated(half), newest + 36000, Known(), LIMITS).state is State.INCOMPLETE  # who looks once


def test_the_phase_that_saves_keeps_it_in_progress_but_not_one_from_before(
    done: Description, half: Description
) -> None:
    newest = done.newest
    assert newest is not None
    assert told(done, 1000, Known(saving_since=newest - 3)).state is State.IN_PROGRESS
    assert told(done, None, Known(saving_since=newest + 30)).state is State.COMPLETE
    assert told(half, 1000, Known(saving_since=newest + 30)).state is State.INCOMPLETE


def test_the_number_of_ranks_tells_what_no_name_tells(plain: Description, done: Description) -> None:
    verdict = told(plain, 1000, Known(world_size=6))
    assert verdict.state is State.INCOMPLETE
    assert verdict.missing is not None
    assert verdict.missing.names == tuple(f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (4, 5))
    assert told(done, None, Known(world_size=6)).state is State.IN_PROGRESS
    assert told(done, None, Known(world_size=4)).state is State.COMPLETE


def test_ranks_of_other_nodes_may_write_elsewhere(plain: Description, half: Description, done: Description) -> None:
    here = Known(world_size=8, local_ranks=frozenset(range(4)))
    verdict = told(plain, 1000, here)
    assert verdict.state is State.COMPLETE
    assert "4 of 8 ranks are on this node" in verdict.reason
    assert told(half, 1000, here).state is State.INCOMPLETE  # one of this node's own
    # Those of others are here, too, so the file system is shared: the rest is missing.
    shared = Known(world_size=8, local_ranks=frozenset(range(3)))
    assert told(done, 1000, shared).state is State.INCOMPLETE
    failed = replace(here, failed="NCCL timeout", saved_at=(plain.newest or 0) + 1)
    assert told(plain, 1000, failed).state is State.INCOMPLETE


def test_without_a_word_of_its_processes_the_part_of_another_node_must_settle_for_long(tmp_path: Path) -> None:
    files = {name: content for name, content in deepspeed(2, 4).items() if "rank_2_" in name or "rank_3_" in name}
    found = found_in(tmp_path, files)
    assert found.elsewhere
    assert told(found, 99).state is State.IN_PROGRESS  # the first rank may have yet to write its own
    verdict = told(found, 100)
    assert verdict.state is State.COMPLETE
    assert "the ranks of another node" in verdict.reason
    assert told(found, 10, Known(world_size=4, local_ranks=frozenset({2, 3}))).state is State.COMPLETE
    assert told(found, 100, Known(world_size=4)).state is State.INCOMPLETE


def test_tensor_parallel_ranks_count_into_the_world(tmp_path: Path) -> None:
    found = found_in(tmp_path, deepspeed(3, 2, 2))
    assert told(found, 1000, Known(world_size=4)).state is State.COMPLETE
    verdict = told(found, 1000, Known(world_size=8))
    assert verdict.missing is not None
    assert verdict.missing.count == 8  # model and optimizer states of four ranks
    local = Known(world_size=8, local_ranks=frozenset(range(4)))
    assert told(found, 1000, local).state is State.COMPLETE


def test_model_states_alone_are_enough_only_without_zero(tmp_path: Path) -> None:
    found = found_in(tmp_path, deepspeed(0))
    assert told(found, 1000).state is State.COMPLETE
    assert told(found, 1000, Known(zero_stage=0)).state is State.COMPLETE
    assert told(found, 1000, Known(zero_stage=2)).state is State.INCOMPLETE


@pytest.mark.parametrize("files", [export(), export(3), export(binary=True), adapter(), universal()])
def test_exports_are_complete_once_they_settle(files: dict[str, bytes], tmp_path: Path) -> None:
    name = "global_step1_universal" if any("zero/" in file for file in files) else "global_step1_hf"
    found = found_in(tmp_path, files, name)
    assert told(found, 9).state is State.IN_PROGRESS
    assert told(found, 10).state is State.COMPLETE
    assert told(found, 0, Known(saved_at=(found.newest or 0) + 1)).state is State.COMPLETE


def test_a_file_that_is_cut_off_breaks_it(tmp_path: Path) -> None:
    found = found_in(tmp_path, {**deepspeed(2, 2), "mp_rank_00_model_states.pt": torch_archive()[:-9]})
    verdict = told(found, 1000)
    assert (verdict.state, verdict.cut_off) == (State.INCOMPLETE, ("mp_rank_00_model_states.pt",))
    assert "mp_rank_00_model_states.pt is cut off" in verdict.reason


def test_deletion_while_looking_is_rotation_and_nothing_broken(tmp_path: Path) -> None:
    whole = found_in(tmp_path, DONE)
    before = Sighting(whole, 0)
    for name in list(DONE)[:-1]:
        (tmp_path / "global_step4" / name).unlink()
        (part,) = look(tmp_path).checkpoints
        verdict = judge(part, before, 1000, Known(alive=False), LIMITS)
        assert verdict.state is State.IN_PROGRESS
        assert "being deleted" in verdict.reason
        before = Sighting(part, 1000)
    assert judge(part, before, 1100, Known(), LIMITS).state is State.INCOMPLETE  # a deletion that was killed


@pytest.mark.parametrize("order", [1, -1])
def test_shards_of_an_export_that_go_before_their_index_are_rotation(tmp_path: Path, order: int) -> None:
    whole = found_in(tmp_path, export(3), "global_step4_hf")
    before = Sighting(whole, 0)
    for name in [one for one in export(3) if one.startswith("model")][::order]:
        (tmp_path / "global_step4_hf" / name).unlink()
        (part,) = look(tmp_path).checkpoints
        verdict = judge(part, before, 1000, Known(alive=False), LIMITS)
        assert (verdict.state, verdict.deleting) == (State.IN_PROGRESS, True)
        before = Sighting(part, 1000)


def test_what_is_not_known_in_full_is_not_judged(half: Description) -> None:
    assert told(replace(half, problem="more entries than are looked at"), 1e6).state is State.IN_PROGRESS


flags = st.none() | st.booleans()
times = st.none() | st.floats(-1000, 1000)


@given(
    kept=st.sets(st.sampled_from(sorted(DONE)), min_size=1),
    quiet=st.none() | st.floats(0, 1e4), since=times, ended=times,
    world=st.none() | st.integers(1, 8), alive=flags, failed=st.none() | st.just("error"),
    local=st.none() | st.frozensets(st.integers(0, 7), min_size=1),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_nothing_is_called_complete_while_a_file_is_missing_or_it_is_saved(
    kept: set[str], quiet: float | None, since: float | None, ended: float | None, world: int | None,
    alive: bool | None, failed: str | None, local: frozenset[int] | None,
) -> None:  # fmt: skip
    with TemporaryDirectory() as folder:
        found = found_in(Path(folder), {name: DONE[name] for name in DONE if name in kept})
    newest = found.newest or 0.0
    known = Known(
        saving_since=None if since is None else newest + since, saved_at=None if ended is None else newest + ended,
        failed=failed, world_size=world, local_ranks=local, alive=alive,
    )  # fmt: skip
    verdict = told(found, quiet, known)
    ranks = {data_rank for data_rank, _ in found.optimizer_ranks}
    if verdict.state is State.COMPLETE:
        assert verdict.missing is None
        assert since is None or since > 5
        if world is not None and ranks and local is None:
            assert ranks >= set(range(world))
        if not found.elsewhere and ranks and (local is None or world is None):
            assert ranks == set(range(max(ranks) + 1))
            assert "mp_rank_00_model_states.pt" in kept
    if verdict.state is State.INCOMPLETE:
        assert quiet is not None
        assert quiet >= LIMITS.settle_seconds
