"""Signals of the rollout, from ``SamplesGenerator.generate_samples``; marks each sample with its time for the lag."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhfd_emitter.process import Process, guarded
from rlhfd_emitter.signals.batch import setting
from rlhfd_emitter.signals.groups import compute
from rlhfd_emitter.signals.progress import GENERATOR, Progress, stamp
from rlhfd_emitter.signals.statistics import joined
from rlhfd_emitter.wrappers import Function


@dataclass(frozen=True)
class Generation:
    """One call that generated: ``samples`` passed the filter (if any) out of those of ``prompts`` prompts. Some may
    wait in the generator's buffer for later steps, others of an earlier call may have been served instead."""

    samples: Sequence[Any]
    prompts: int
    seconds: float
    args: Any


def throughput(generation: Generation) -> Mapping[str, float]:
    """How much was generated, and how fast."""
    masks: list[Any] = [getattr(sample, "action_mask", None) for sample in generation.samples]
    if any(mask is None for mask in masks):
        return {}
    return {
        "rlhfd/generation/prompts": float(generation.prompts),
        "rlhfd/generation/samples": float(len(masks)),
        "rlhfd/generation/tokens_per_second": int(joined(masks).sum()) / generation.seconds,
    }


def filtering(generation: Generation) -> Mapping[str, float]:
    """The share of prompts that dynamic filtering let pass; OpenRLHF's own figure has another unit by version."""
    size = setting(generation.args, "rollout.n_samples_per_prompt", "n_samples_per_prompt") or 1
    if not setting(generation.args, "algo.dynamic_filtering_enable", "dynamic_filtering"):
        return {}
    return {"rlhfd/dynamic_filtering/pass_ratio": len(generation.samples) / size / generation.prompts}


GROUPS = {"generation": throughput, "dynamic_filtering": filtering}


def generate_samples(process: Process, original: Function) -> Function:
    """``SamplesGenerator.generate_samples``: in the trainer, or in the generator of asynchronous training."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        began, clock = time.time(), time.perf_counter()
        held: Any = guarded(lambda: len(_buffer(args[0])))
        result = original(*args, **kwargs)
        guarded(_report, process, args[0], held or 0, result, began, time.perf_counter() - clock)
        return result

    return wrapper


def _report(process: Process, generator: Any, held: int, result: Any, began: float, seconds: float) -> None:
    if isinstance(result, list):  # before 0.9.1: the samples, of an evaluation, too
        stamp(result, began)
        return
    samples, _, prompts, _ = result
    # The buffer is served first in, first out: what was in it before the call comes before what is new.
    new = [*samples, *_buffer(generator)][held:]
    stamp(new, began)
    if not new or not prompts or process.emitter is None or process.emitter.muted:
        return
    args = getattr(generator, "args", None)
    step = process.step if process.role == GENERATOR else process.shared(Progress).next_step(process, args)
    process.emitter.emit(step, compute(process, GROUPS, Generation(new, prompts, seconds, args)))


def _buffer(generator: Any) -> Sequence[Any]:
    """Samples generated beyond a step's need, since 0.10.2."""
    return getattr(generator, "_sample_buffer", None) or ()
