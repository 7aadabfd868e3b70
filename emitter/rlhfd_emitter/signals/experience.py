"""Signals of each step's experiences, from ``RemoteExperienceMaker`` in the trainer's process, on CPU tensors."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhfd_emitter.process import Process, guarded
from rlhfd_emitter.requests import SAMPLES_VARIABLE
from rlhfd_emitter.signals import repetition, reward_summary, samples, tokens
from rlhfd_emitter.signals.batch import Batch
from rlhfd_emitter.signals.groups import compute
from rlhfd_emitter.signals.progress import Progress, generated_at
from rlhfd_emitter.signals.statistics import Tensor
from rlhfd_emitter.wrappers import Function

# In this order, each on its own.
GROUPS = {
    "size": samples.size,
    "filling": samples.filling,
    "advantage": tokens.advantage,
    "return": tokens.returns,
    "value": tokens.value,
    "kl": tokens.kl,
    "mismatch": tokens.mismatch,
    "entropy": tokens.entropy,
    "reward": samples.reward,
    "group": samples.group,
    "length": samples.length,
    "correlation": samples.correlation,
    "repetition": repetition.repetition,
    "ratio": samples.ratio,
}
SAMPLES = "reward_samples"  # single answers' numbers are only for whoever asks
EVENTS: dict[str, Callable[[Batch], Mapping[str, object]]] = {
    "reward_summary": reward_summary.summary,
    SAMPLES: reward_summary.columns,
}


class Compared:
    """The log-probabilities that went into the KL penalty while experiences are made; OpenRLHF drops the reference
    model's after it. Not a moment longer: they are as large as the batch."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] | None = None


def approx_kl(process: Process, original: Function) -> Function:
    """``compute_approx_kl(log_probs, log_probs_base, ...)`` as the experience maker's module calls it."""

    def note(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        pairs = process.shared(Compared).pairs
        if pairs is not None:
            given = (*args, *(kwargs[name] for name in ("log_probs", "log_probs_base")[len(args) :]))
            pairs.append((given[0], given[1]))

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        guarded(note, args, kwargs)
        return original(*args, **kwargs)

    return wrapper


def make_experience(process: Process, original: Function) -> Function:
    """``RemoteExperienceMaker.make_experience_batch(self, rollout_samples)``, the beginning of each training step."""

    def begin(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[float | None]:
        process.shared(Compared).pairs = []
        return generated_at(args[1] if len(args) > 1 else next(iter(kwargs.values()), None))

    def end() -> None:
        process.shared(Compared).pairs = None

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        moments: Any = guarded(begin, args, kwargs)
        try:
            result = original(*args, **kwargs)
            guarded(_report, process, args, moments or [], result)
            return result
        finally:
            guarded(end)

    return wrapper


def _report(process: Process, args: tuple[Any, ...], moments: Sequence[float | None], experiences: Any) -> None:
    clock = time.perf_counter()
    maker, progress = args[0], process.shared(Progress)
    step = progress.next_step(process, getattr(maker, "args", None))
    values = dict(compute(process, {"policy_lag": progress.lags}, moments))
    progress.trained(step)
    if process.emitter is None or process.emitter.muted:
        return
    known = [each for each in experiences if _on_cpu(getattr(each, "action_mask", None))]
    if known:
        values.update(compute(process, {"experience": lambda one: _computed(process, one, maker, step)}, known))
    if values:
        values["rlhfd/overhead/experience_seconds"] = time.perf_counter() - clock
        process.emitter.emit(step, values)


def _computed(process: Process, experiences: Sequence[Any], maker: Any, step: int | None) -> Mapping[str, float]:
    pairs = process.shared(Compared).pairs or ()
    batch = Batch(experiences, maker, {id(policy): reference for policy, reference in pairs})
    values = compute(process, GROUPS, batch)
    for name, event in EVENTS.items():
        hook = process.hook(f"signals.{name}")
        if not hook.off and (name != SAMPLES or os.environ.get(SAMPLES_VARIABLE) == "1"):
            hook.calls += 1
            hook.guarded(_tell, process, name, event, batch, step)
    return values


def _tell(
    process: Process, name: str, event: Callable[[Batch], Mapping[str, object]], batch: Batch, step: int | None
) -> None:
    fields = event(batch)
    if fields and process.emitter is not None:
        process.emitter.event(name, step=step, **fields)


def _on_cpu(tensor: Tensor | None) -> bool:
    """Reading an accelerator's tensor would make the training wait."""
    return tensor is not None and getattr(getattr(tensor, "device", None), "type", "cpu") == "cpu"
