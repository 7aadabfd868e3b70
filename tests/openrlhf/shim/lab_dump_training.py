"""Writes what the losses and the optimizer of a model actor got to ``LAB_DUMP``, one file for each ``ppo_train``.

``policy-<rank>-<count>.npz`` and ``critic-<rank>-<count>.npz``, counted from 1: arrays ``<i>/<parameter>`` of the i-th
call of the loss, floats in float64, and ``<i>/attention_mask`` of the i-th ``training_step``; ``low``, ``high`` and
``dual`` or ``clip`` of the loss (absent: none); of each call of ``optimizer_step`` the engine's ``norms`` after it
(NaN: none) and ``steps``, how many it counted in it; and as JSON ``args``, OpenRLHF's arguments about batches by dotted
name.

Only helper classes are patched, as in ``lab_dump``.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from lab_imports import after_import

POLICY = ("log_probs", "old_log_probs", "advantages", "action_mask")
CRITIC = ("values", "old_values", "returns", "action_mask")
ARGS = (
    "ds.packing_samples", "ds.ring_attn_size", "ds.tensor_parallel_size", "train.dynamic_batch_enable",
    "train.max_tokens_per_gpu",
)  # fmt: skip
BOUNDS = {"low": "clip_eps_low", "high": "clip_eps_high", "dual": "dual_clip", "clip": "clip_eps"}

_count = 0
_batches = 0
_arrays: dict[str, Any] = {}
_steps: list[tuple[int, float]] = []


@after_import("openrlhf.models.loss")
def _note_losses(module: ModuleType) -> None:
    for owner, names in ((module.PolicyLoss, POLICY), (module.ValueLoss, CRITIC)):
        owner.forward = _noted(owner.forward, names)


def _noted(forward: Any, names: tuple[str, ...]) -> Any:
    signature = inspect.signature(forward)

    @functools.wraps(forward)
    def noted(*args: Any, **kwargs: Any) -> Any:
        global _batches
        given = signature.bind(*args, **kwargs).arguments
        for name in names:
            tensor = given[name].detach()
            _arrays[f"{_batches}/{name}"] = (tensor.double() if tensor.is_floating_point() else tensor).numpy().copy()
        held = {key: getattr(given["self"], name, None) for key, name in BOUNDS.items()}
        _arrays.update({key: value for key, value in held.items() if value is not None})
        _batches += 1
        return forward(*args, **kwargs)

    return noted


@after_import("openrlhf.utils.deepspeed.deepspeed")
def _note_steps(module: ModuleType) -> None:
    original = module.DeepspeedStrategy.optimizer_step

    @functools.wraps(original)
    def optimizer_step(self: Any, optimizer: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        engine = model.model if isinstance(model, module.Actor) else model
        before = engine.global_steps
        result = original(self, optimizer, model, *args, **kwargs)
        norm = engine.get_global_grad_norm()
        _steps.append((engine.global_steps - before, float("nan") if norm is None else float(norm)))
        return result

    module.DeepspeedStrategy.optimizer_step = optimizer_step


@after_import("openrlhf.trainer.ray.ppo_actor")
def _dump_policy(module: ModuleType) -> None:
    _dump(module.ActorPPOTrainer, "policy")


@after_import("openrlhf.trainer.ray.ppo_critic")
def _dump_critic(module: ModuleType) -> None:
    _dump(module.CriticPPOTrainer, "critic")


def _dump(trainer: Any, kind: str) -> None:
    train, step = trainer.ppo_train, trainer.training_step

    @functools.wraps(train)
    def ppo_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        global _batches, _count
        _arrays.clear()
        _steps.clear()
        _batches = 0
        result = train(self, *args, **kwargs)
        _count += 1
        _arrays["args"] = json.dumps({name: functools.reduce(getattr, name.split("."), self.args) for name in ARGS})
        _write(f"{kind}-{os.environ['RANK']}-{_count:04d}.npz")
        return result

    @functools.wraps(step)
    def training_step(self: Any, experience: Any, *args: Any, **kwargs: Any) -> Any:
        _arrays[f"{_batches}/attention_mask"] = experience.attention_mask.numpy().copy()  # before the loss counts it
        return step(self, experience, *args, **kwargs)

    trainer.ppo_train, trainer.training_step = ppo_train, training_step


def _write(name: str) -> None:
    import numpy

    steps, norms = zip(*_steps, strict=True)
    numpy.savez(Path(os.environ["LAB_DUMP"], name), steps=steps, norms=norms, **_arrays)
