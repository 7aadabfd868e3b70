"""What DeepSpeed's files say of the training besides tensors: steps, rates, scales, world sizes, the client's state."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhfd_daemon.checkpoints.opening import OpenFile
from rlhfd_daemon.checkpoints.pickle_values import Opaque
from rlhfd_daemon.checkpoints.tensor import Tensor

__all__ = ["Plain", "TrainingState", "number", "of_model", "of_optimizer", "optimizer_steps"]

Plain = int | float | str | bool | None
MAX_TEXT = 1000
MAX_VALUES = 1000
_OF_DEEPSPEED = {
    "module", "buffer_names", "optimizer", "param_shapes", "frozen_param_shapes", "shared_params", "data_sampler",
    "frozen_param_fragments", "lr_scheduler", "random_ltd", "sparse_tensor_module_names", "skipped_steps",
    "global_steps", "global_samples", "dp_world_size", "mp_world_size", "ds_config", "ds_version", "num_experts",
    "checkpoint_parallel_dimensions", "universal_checkpoint_info",
}  # fmt: skip
_FORMATS = {"float32": "<f", "float64": "<d", "int64": "<q", "int32": "<i", "float16": "<e"}


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What one file, or all files of a tag together, say; ``None`` and empty: not said.

    ``global_steps`` counts optimizer steps and ``skipped_steps`` those that an overflow prevented; learning rates are
    one per group of parameters. ``client`` and ``lr_scheduler`` have only numbers, strings and booleans.
    """

    global_steps: int | None = None
    global_samples: int | None = None
    skipped_steps: int | None = None
    dp_world_size: int | None = None
    mp_world_size: int | None = None
    ds_version: str | None = None
    zero_stage: int | None = None
    partition_count: int | None = None
    loss_scale: float | None = None
    overflow: bool | None = None
    learning_rates: tuple[float, ...] = ()
    optimizer_steps: tuple[int, ...] = ()
    lr_scheduler: Mapping[str, Plain] = field(default_factory=dict)
    client: Mapping[str, Plain] = field(default_factory=dict)


def of_model(tree: Mapping[Any, object]) -> TrainingState:
    """From the tree of a ``*_model_states.pt``."""
    scheduler = tree.get("lr_scheduler")
    rates = scheduler.get("_last_lr") if isinstance(scheduler, dict) else None
    return TrainingState(
        global_steps=_integer(tree.get("global_steps")),
        global_samples=_integer(tree.get("global_samples")),
        skipped_steps=_integer(tree.get("skipped_steps")),
        dp_world_size=_integer(tree.get("dp_world_size")),
        mp_world_size=_integer(tree.get("mp_world_size")),
        ds_version=_text(tree.get("ds_version")),
        zero_stage=_configured_stage(tree.get("ds_config")),
        learning_rates=_numbers(rates),
        lr_scheduler=dict(_plain(scheduler)) if isinstance(scheduler, dict) else {},
        client=dict(_plain({key: value for key, value in tree.items() if key not in _OF_DEEPSPEED})),
    )


def of_optimizer(tree: Mapping[Any, object], opened: OpenFile) -> TrainingState:
    """From the tree of a ``*_optim_states.pt``; a step that is a tensor is read from ``opened``."""
    state = tree.get("optimizer_state_dict")
    if not isinstance(state, dict):
        return TrainingState()
    base = state.get("base_optimizer_state", state.get("optimizer_state_dict"))
    groups = base.get("param_groups") if isinstance(base, dict) else None
    stage = state.get("zero_stage")
    stage = stage.args[0] if isinstance(stage, Opaque) and isinstance(stage.args, tuple) and stage.args else stage
    count = state.get("partition_count")
    scaler = state.get("loss_scaler")
    scaler = scaler.state.get("cur_scale") if isinstance(scaler, Opaque) and isinstance(scaler.state, dict) else scaler
    overflow = state.get("overflow")
    steps = [state.get("base_optimizer_state_step"), *optimizer_steps(base)]
    found = {number(step, opened) for step in steps[:MAX_VALUES]}
    return TrainingState(
        ds_version=_text(tree.get("ds_version")),
        zero_stage=stage if type(stage) is int else _configured_stage(tree.get("ds_config")),
        partition_count=_integer(count[0] if isinstance(count, list) and count else count),
        loss_scale=number(scaler, opened),
        overflow=overflow if isinstance(overflow, bool) else None,
        learning_rates=_numbers([one.get("lr") for one in groups if isinstance(one, dict)])
        if isinstance(groups, list)
        else (),
        optimizer_steps=tuple(sorted(int(one) for one in found if one is not None and math.isfinite(one))),
    )


def optimizer_steps(base: object) -> list[object]:
    """All that says which step a torch optimizer's state is of: numbers, or tensors of one."""
    states: list[object] = [base] if not isinstance(base, list) else base
    if isinstance(base, dict):
        inner, groups = base.get("state"), base.get("param_groups")
        states = [*(inner.values() if isinstance(inner, dict) else ()), *(groups if isinstance(groups, list) else ())]
    return [one["step"] for one in states if isinstance(one, dict) and "step" in one]


def number(value: object, opened: OpenFile) -> float | None:
    """A number, also one that is in a tensor of one element of ``opened``."""
    if isinstance(value, Tensor):
        form = _FORMATS.get(value.dtype)
        if form is None or value.elements != 1:
            return None
        return float(struct.unpack(form, opened.read(value.offset, struct.calcsize(form)))[0])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if isinstance(value, float) or abs(value) < 1 << 63 else None


def _configured_stage(config: object) -> int | None:
    section = config.get("zero_optimization") if isinstance(config, dict) else None
    return _integer(section.get("stage")) if isinstance(section, dict) else None


def _integer(value: object) -> int | None:
    return value if type(value) is int and abs(value) < 1 << 63 else None


def _text(value: object) -> str | None:
    return value[:MAX_TEXT] if isinstance(value, str) else None


def _numbers(value: object) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)):
        return ()
    return tuple(
        float(one) for one in value[:MAX_VALUES] if isinstance(one, float) or (type(one) is int and abs(one) < 1 << 63)
    )


def _plain(found: Mapping[Any, object]) -> Iterator[tuple[str, Plain]]:
    """What is a number, a string, a boolean or ``None`` under a string."""
    for _, (key, value) in zip(range(MAX_VALUES), found.items(), strict=False):
        if not isinstance(key, str) or len(key) > MAX_TEXT:
            continue
        if value is None or isinstance(value, (bool, float)):
            yield key, value
        elif isinstance(value, str):
            yield key, value[:MAX_TEXT]
        elif isinstance(value, int) and abs(value) < 1 << 63:
            yield key, value
