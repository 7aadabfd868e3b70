"""DeepSpeed's files by parameter: every element at its place, whatever ranks are there, and what does not agree."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostile_checkpoints import Floats, Made, put, saved
from rlhfd_daemon.checkpoints import deepspeed
from rlhfd_daemon.checkpoints.deepspeed import Tag
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.reading import blocks

GROUPS = [{"a.weight": (2, 3), "b.weight": (5,)}, {"a.bias": (3,), "scalar": ()}]
CLIENT = {"episode": 1, "global_step": 12, "best": 0.5, "note": "x", "loader": {"deep": [1]}}
STATE = {
    "global_steps": 24, "global_samples": 192, "skipped_steps": 1, "dp_world_size": 2, "mp_world_size": 1,
    "ds_version": "0.19.6", "lr_scheduler": {"last_epoch": 24, "_last_lr": [1e-6, 2e-6]}, "buffer_names": [],
}  # fmt: skip


def values(name: str, count: int) -> list[float]:
    """The elements of a parameter, all different."""
    return [float(sum(name.encode()) * 100 + index) for index in range(count)]


def model(folder: Path, name: str = "mp_rank_00_model_states.pt", **more: object) -> None:
    module = {key: Floats(values(key, math.prod(shape)), shape) for group in GROUPS for key, shape in group.items()}
    put(folder, name, saved({"module": module, "param_shapes": GROUPS, **STATE, **CLIENT, **more}))


def flattened(group: dict[str, tuple[int, ...]], world: int) -> list[float]:
    flat = [one for key, shape in group.items() for one in values(key, math.prod(shape))]
    return flat + [0.0] * (-len(flat) % (2 * world))


def optimizer(folder: Path, rank: int, world: int, prefix: str = "bf16_", shorter: int = 0) -> None:
    """A rank's file under ZeRO-2; master weights without the padding."""
    partitions, states = [], {}
    for index, group in enumerate(GROUPS):
        flat = flattened(group, world)
        each = len(flat) // world
        part = flat[rank * each : (rank + 1) * each]
        wanted = sum(math.prod(shape) for shape in group.values())
        partitions.append(Floats(part[: max(min(each, wanted - rank * each) - shorter, 0)]))
        squares = Floats([one * 2 for one in part])
        states[index] = {"step": Floats([24.0], ()), "exp_avg": Floats(part), "exp_avg_sq": squares}
    inner = {
        "loss_scaler": Made("deepspeed.runtime.fp16.loss_scaler", "LossScaler", (), {"cur_scale": 1024.0}),
        "overflow": False, "base_optimizer_state": {"state": states, "param_groups": [{"lr": 1e-6, "params": [0]}]},
        "single_partition_of_fp32_groups": partitions, "partition_count": [world, world],
        "zero_stage": Made("deepspeed.runtime.zero.config", "ZeroStageEnum", (2,)),
    }  # fmt: skip
    tree = {"optimizer_state_dict": inner, "ds_version": "0.19.6"}
    put(folder, f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", saved(tree))


def sharded(folder: Path, rank: int, world: int) -> None:
    """A rank's two files under ZeRO-3, in sub-groups that parameters straddle."""
    flat: list[float] = []
    for group in GROUPS:
        for key, shape in group.items():
            each = -(-math.prod(shape) // world)
            part = values(key, math.prod(shape))[rank * each : (rank + 1) * each]
            flat += part + [-1.0] * (each - len(part))
    parts = [flat[:4], flat[4:5], flat[5:]]
    states = {index: {"step": 24, "exp_avg": Floats(part)} for index, part in enumerate(parts)}
    inner = {
        "optimizer_state_dict": {"state": states, "param_groups": []}, "partition_count": world, "zero_stage": 3,
        "fp32_flat_groups": [Floats(part) for part in parts], "loss_scaler": 1.0,
    }  # fmt: skip
    put(folder, f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", saved({"optimizer_state_dict": inner}))
    module = {key: Floats([]) for group in GROUPS for key in group}
    name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
    put(folder, name, saved({"module": module, "param_shapes": GROUPS, **STATE}))


def elements(folder: Path, tag: Tag, kind: str) -> dict[str, dict[int, float]]:
    """What the pieces of a kind hold: numbers by parameter and place. No place is held twice by one rank's files."""
    found: dict[str, dict[int, float]] = {}
    with Folder.open(folder) as opened:
        for piece in tag.pieces:
            if piece.kind != kind:
                continue
            with opened.file(piece.tensor.file, tag.identities[piece.tensor.file]) as file:
                raw = b"".join(map(bytes, blocks(piece.tensor, file)))
            held = found.setdefault(piece.parameter, {})
            for index, one in enumerate(struct.unpack(f"<{len(raw) // 4}f", raw), piece.start):
                assert index not in held
                assert index < math.prod(piece.shape)
                held[index] = one
    return found


def expected() -> dict[str, dict[int, float]]:
    return {key: dict(enumerate(values(key, math.prod(shape)))) for group in GROUPS for key, shape in group.items()}


def read(folder: Path) -> Tag:
    with Folder.open(folder) as opened:
        return deepspeed.read(opened)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=8)
@given(st.integers(1, 5))
def test_zero_2_gives_every_element_of_every_parameter_once(tmp_path_factory: Any, world: int) -> None:
    folder = tmp_path_factory.mktemp("tag")
    model(folder)
    for rank in range(world):
        optimizer(folder, rank, world)
    tag = read(folder)
    assert tag.defects == ()
    for kind in ("weight", "master", "exp_avg"):
        assert elements(folder, tag, kind) == expected(), kind
    doubled = {key: {at: one * 2 for at, one in held.items()} for key, held in expected().items()}
    assert elements(folder, tag, "exp_avg_sq") == doubled


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=8)
@given(st.integers(1, 5))
def test_zero_3_gives_every_element_of_every_parameter_once(tmp_path_factory: Any, world: int) -> None:
    folder = tmp_path_factory.mktemp("tag")
    for rank in range(world):
        sharded(folder, rank, world)
    tag = read(folder)
    assert tag.defects == ()
    for kind in ("master", "exp_avg"):
        assert elements(folder, tag, kind) == expected(), kind
    assert elements(folder, tag, "weight") == {}
    assert tag.state.zero_stage == 3


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_one_rank_alone_is_read_as_on_a_node_without_a_shared_file_system(tmp_path: Path, rank: int) -> None:
    model(tmp_path)
    optimizer(tmp_path, rank, 3, prefix="")
    tag = read(tmp_path)
    assert tag.defects == ()
    for key, held in elements(tmp_path, tag, "master").items():
        assert held.items() <= expected()[key].items()


def test_the_state_of_the_training(tmp_path: Path) -> None:
    model(tmp_path)
    for rank in range(2):
        optimizer(tmp_path, rank, 2)
    state = read(tmp_path).state
    assert (state.global_steps, state.global_samples, state.skipped_steps) == (24, 192, 1)
    assert (state.dp_world_size, state.mp_world_size, state.partition_count) == (2, 1, 2)
    assert (state.zero_stage, state.ds_version, state.loss_scale, state.overflow) == (2, "0.19.6", 1024.0, False)
    assert (state.learning_rates, state.optimizer_steps) == ((1e-6, 2e-6), (24,))
    assert state.lr_scheduler == {"last_epoch": 24}
    assert state.client == {key: value for key, value in CLIENT.items() if key != "loader"}


def test_what_is_not_said_is_none(tmp_path: Path) -> None:
    put(tmp_path, "mp_rank_00_model_states.pt", saved({"module": {}}))
    put(tmp_path, "zero_pp_rank_0_mp_rank_00_optim_states.pt", saved({"optimizer_state_dict": {}}))
    tag = read(tmp_path)
    assert (tag.state.global_steps, tag.state.loss_scale, tag.pieces, tag.defects) == (None, None, (), ())


def test_files_that_do_not_agree(tmp_path: Path) -> None:
    model(tmp_path)
    model(tmp_path, "mp_rank_01_model_states.pt", global_steps=25)
    assert [(one.kind, one.file) for one in read(tmp_path).defects] == [("inconsistent", "mp_rank_01_model_states.pt")]


def test_partitions_that_are_too_small(tmp_path: Path) -> None:
    model(tmp_path)
    optimizer(tmp_path, 0, 2, shorter=1)
    assert {one.kind for one in read(tmp_path).defects} == {"inconsistent"}


def test_an_optimizer_file_without_the_names(tmp_path: Path) -> None:
    optimizer(tmp_path, 0, 2)
    tag = read(tmp_path)
    assert ([one.kind for one in tag.defects], tag.pieces) == (["missing"], ())


@pytest.mark.parametrize("tree", [
    {"param_shapes": [{"a": (1 << 62, 1 << 62)}]}, {"param_shapes": {"a": 1}}, {"param_shapes": [{"a": (-1,)}, 3]},
    {"param_shapes": [{3: (1,)}]}, {"module": 3, "lr_scheduler": 4}, {"frozen_param_shapes": {"a": "x"}}, {},
    {"global_steps": "x", "dp_world_size": -3, "lr_scheduler": {"_last_lr": [None, "x", 0.5]}, "ds_config": []},
])  # fmt: skip
def test_trees_with_anything_in_them_are_read(tmp_path: Path, tree: Any) -> None:
    put(tmp_path, "mp_rank_00_model_states.pt", saved(tree))
    optimizer(tmp_path, 0, 2)
    read(tmp_path)


def test_a_file_that_is_no_dict(tmp_path: Path) -> None:
    put(tmp_path, "mp_rank_00_model_states.pt", saved([1]))
    assert [one.kind for one in read(tmp_path).defects] == ["malformed"]


def test_a_universal_checkpoint_is_read_by_its_folders(tmp_path: Path) -> None:
    model(tmp_path)
    folder = tmp_path / "zero" / "a.weight"
    folder.mkdir(parents=True)
    put(tmp_path / "zero", "optimizer_state.pt", saved({}))
    for name in ("fp32.pt", "exp_avg.pt", "step.pt"):
        put(folder, name, saved({"param": Floats(values("a.weight", 6), (2, 3)), "cat_dim": 0}))
    tag = read(tmp_path)
    assert tag.defects == ()
    only = {"a.weight": expected()["a.weight"]}
    assert (elements(tmp_path, tag, "master"), elements(tmp_path, tag, "exp_avg")) == (only, only)
