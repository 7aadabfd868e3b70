"""Writes what the PPO trainer makes of each step's samples to ``LAB_DUMP``, as OpenRLHF's own functions see it.

``experience-<count>.npz`` for each call of ``make_experience_batch``, counted from 1: arrays ``<i>/<field>`` of the
i-th experience that comes back, floats in float64, ``<i>/base`` the reference model's log-probabilities, from the
argument of the KL penalty or, with a KL loss, from the experience, ``<i>/raw`` the advantages as the estimator returned
them, before they are whitened, and ``kl_coefficient``. Beside it ``experience-<count>.json``: ``began`` (Unix seconds)
and ``broadcasts``, when each of those so far was over.
``experience-generation-<count>.json`` for each call of ``generate_samples`` with a result, also counted from 1:
``began``, ``seconds``, ``prompts`` and ``tokens``, the response tokens of each sample that it returned.

Only helper classes are patched. This runs in the driver, too: see ``rlhfd_emitter.hooks`` on base classes of actors.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import lab_dump_supervised  # noqa: F401 - what SFT, reward models and DPO train on
import lab_dump_training  # noqa: F401 - what the model actors train on
from lab_imports import after_import

FIELDS = (
    "sequences", "attention_mask", "action_mask", "action_log_probs", "rollout_log_probs", "values", "returns",
    "advantages", "rewards", "response_length", "truncated",
)  # fmt: skip

_batches = 0
_generations = 0
_broadcasts: list[float] = []
_bases: list[Any] = []
_raw: list[Any] = []


@after_import("openrlhf.trainer.ray.launcher")
def _note_broadcasts(module: ModuleType) -> None:
    group = module.RayActorGroup
    original = group.async_run_method

    def async_run_method(self: Any, method_name: str, *args: Any, **kwargs: Any) -> Any:
        refs = original(self, method_name, *args, **kwargs)
        if method_name == "broadcast_to_vllm":
            import ray

            ray.get(refs)
            _broadcasts.append(time.time())
        return refs

    group.async_run_method = async_run_method


@after_import("openrlhf.trainer.ppo_utils.samples_generator")
def _dump_generations(module: ModuleType) -> None:
    original = module.SamplesGenerator.generate_samples

    def generate_samples(self: Any, **kwargs: Any) -> Any:
        global _generations
        began, clock = time.time(), time.perf_counter()
        result = original(self, **kwargs)
        seconds = time.perf_counter() - clock
        if result[0]:
            _generations += 1
            tokens = [int(sample.action_mask.sum()) for sample in result[0]]
            about = {"began": began, "seconds": seconds, "prompts": result[2], "tokens": tokens}
            _path(f"generation-{_generations:04d}.json").write_text(json.dumps(about))
        return result

    module.SamplesGenerator.generate_samples = generate_samples


@after_import("openrlhf.trainer.ppo_utils.experience_maker")
def _dump_experiences(module: ModuleType) -> None:
    maker, kl = module.RemoteExperienceMaker, module.compute_approx_kl
    original = maker.make_experience_batch

    def compute_approx_kl(log_probs: Any, log_probs_base: Any, *args: Any, **kwargs: Any) -> Any:
        _bases.append(log_probs_base.clone())
        return kl(log_probs, log_probs_base, *args, **kwargs)

    def make_experience_batch(self: Any, rollout_samples: Any) -> Any:
        global _batches
        _bases.clear()
        _raw.clear()
        about = {"began": time.time(), "broadcasts": list(_broadcasts)}
        result = original(self, rollout_samples)
        _batches += 1
        _write(f"{_batches:04d}", result, self.kl_ctl.value)
        _path(f"{_batches:04d}.json").write_text(json.dumps(about))
        return result

    module.compute_approx_kl, maker.make_experience_batch = compute_approx_kl, make_experience_batch
    for name in ("get_advantages_and_returns", "get_cumulative_returns"):
        setattr(maker, name, _kept(getattr(maker, name)))


def _kept(estimate: Any) -> Any:
    def kept(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = estimate(self, *args, **kwargs)
        _raw.append((result[0] if isinstance(result, tuple) else result).clone())
        return result

    return kept


def _path(name: str) -> Path:
    return Path(os.environ["LAB_DUMP"], f"experience-{name}")


def _write(count: str, experiences: list[Any], coefficient: float) -> None:
    import numpy

    arrays: dict[str, Any] = {"kl_coefficient": numpy.float64(coefficient)}
    for i, experience in enumerate(experiences):
        found = {name: getattr(experience, name) for name in FIELDS}
        found["base"] = _bases[i] if _bases else experience.base_action_log_probs
        found["raw"] = _raw[i]
        arrays[f"{i}/index"] = numpy.array(experience.index)
        for name, tensor in found.items():
            if tensor is not None:
                arrays[f"{i}/{name}"] = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    numpy.savez(_path(f"{count}.npz"), **arrays)
