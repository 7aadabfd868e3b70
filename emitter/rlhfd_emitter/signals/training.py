"""Signals of the training in a model actor: gathered by micro-batch on the device, sent once a step and rank.

While ``ppo_train`` runs, the losses and the optimizer only add to tensors on their own device. When it has returned,
which OpenRLHF's own ``item()`` calls have made it do after all work was done, they are read in one transfer.
"""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhfd_emitter.process import Process, guarded
from rlhfd_emitter.signals import critic, policy
from rlhfd_emitter.signals.groups import compute
from rlhfd_emitter.signals.micro_batches import Layout, Masks, summary
from rlhfd_emitter.signals.position import Position
from rlhfd_emitter.signals.statistics import Tensor, greatest, mean
from rlhfd_emitter.signals.totals import Rows, Totals, read
from rlhfd_emitter.wrappers import Function, Wrapper, named, positional, reads

MAX_NORMS = 4096  # of a step; the latest are kept


@dataclass
class Call:
    """One call of ``ppo_train`` under way. ``seconds`` is what rlhfd took of it."""

    name: str
    signals: Any  # the module `policy` or `critic`
    totals: Totals
    trainer: Any  # OpenRLHF's
    masks: Masks = field(default_factory=Masks)
    unseen: bool = False  # a micro-batch
    rows: Rows = field(default_factory=Rows)
    settings: Any = None  # of the loss, of what is in the rows
    norms: deque[Tensor] = field(default_factory=lambda: deque(maxlen=MAX_NORMS))
    steps: int | None = None  # not known
    skipped: int = 0
    missed: bool = False  # a step of the optimizer
    seconds: float = 0.0


class Training:
    """What the hooks of one model actor remember: the call under way, if its signals are wanted."""

    def __init__(self) -> None:
        self.call: Call | None = None


def ppo_train(name: str) -> Wrapper:
    """``ppo_train`` of the trainer in the actor of ``name``, ``policy`` or ``critic``."""
    signals = policy if name == "policy" else critic

    def begin(process: Process, args: tuple[Any, ...]) -> None:
        wanted = process.emitter is not None and not process.emitter.muted
        totals, trainer = Totals(getattr(signals, "GREATEST", ())), next(iter(args), None)
        process.shared(Training).call = Call(name, signals, totals, trainer) if wanted else None

    def end(process: Process) -> None:
        process.shared(Training).call = None

    def wrap(process: Process, original: Function) -> Function:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            guarded(begin, process, args)
            try:
                result = original(*args, **kwargs)
                guarded(_report, process)
                return result
            finally:
                guarded(end, process)

        return wrapper

    return wrap


def collated(process: Process, experience: Any) -> None:
    """``NaiveReplayBuffer.collate_fn`` returned a micro-batch, on the CPU unless the replay buffer is elsewhere."""
    call = process.shared(Training).call
    if call is None:
        return
    clock = time.perf_counter()

    def put(masks: Masks) -> Mapping[str, float]:
        mask = experience.attention_mask
        if mask is not None:
            masks.put(mask)
        return {"seen": mask is not None}

    call.unseen = not compute(process, {"micro_batch": put}, call.masks).get("seen") or call.unseen
    call.seconds += time.perf_counter() - clock


@reads("log_probs", "old_log_probs", "advantages", "action_mask")
def policy_loss(process: Process, arguments: Mapping[str, Any]) -> None:
    """``PolicyLoss.forward``, once a micro-batch."""
    tensors = arguments["log_probs"], arguments["old_log_probs"], arguments["advantages"], arguments.get("action_mask")
    _take_in(process, "policy", arguments["self"], tensors)


@reads("values", "old_values", "returns", "action_mask")
def value_loss(process: Process, arguments: Mapping[str, Any]) -> None:
    """``ValueLoss.forward``, once a micro-batch."""
    tensors = arguments["values"], arguments["old_values"], arguments["returns"], arguments.get("action_mask")
    _take_in(process, "critic", arguments["self"], tensors)


def _take_in(process: Process, name: str, loss: Any, tensors: Sequence[Any]) -> None:
    """Keep what the loss of ``name`` was given; compute first if there is no room for more, or if it is set anew."""
    call = process.shared(Training).call
    if call is None or call.name != name:
        return
    clock = time.perf_counter()

    def put(call: Call) -> Mapping[str, float]:
        settings, positions = call.signals.Settings.of(loss), math.prod(tensors[-1].shape)
        if settings != call.settings or not call.rows.has_room_for(positions):
            _add_up(process, call)
            call.settings = settings
        call.rows.put(tensors)
        return {"positions": positions}

    if not compute(process, {name: put}, call):
        call.totals.add({})
    call.seconds += time.perf_counter() - clock


def _add_up(process: Process, call: Call) -> None:
    """Compute the signals of the micro-batches that are kept, if any, and forget them."""
    if not len(call.rows):
        return

    def added(call: Call) -> Mapping[str, Any]:
        return compute(process, call.signals.GROUPS, call.signals.Batch(call.settings, *call.rows.take()))

    call.totals.add(compute(process, {f"{call.name}_rows": added}, call))


@reads("model")
def optimizer_step(process: Process, original: Function) -> Function:
    """``DeepspeedStrategy.optimizer_step``, after each micro-batch; most only accumulate gradients."""
    names = positional(original)

    def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, Any, int, int] | None:
        call = process.shared(Training).call
        if call is None:
            return None
        model = named(names, args, kwargs)["model"]
        # The policy's engine is inside its Actor.
        engine = model if hasattr(model, "get_global_grad_norm") else getattr(model, "model", None)
        steps, skipped = getattr(engine, "global_steps", None), getattr(engine, "skipped_steps", None)
        return (call, engine, steps, skipped) if type(steps) is type(skipped) is int else None

    def after(call: Call, *made: Any) -> None:
        if not compute(process, {"gradient": lambda each: _stepped(call, *each)}, made):
            call.missed = True

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        seen: Any = guarded(before, args, kwargs)
        result = original(*args, **kwargs)
        if seen is not None:
            guarded(after, *seen)
        return result

    return wrapper


def _stepped(call: Call, engine: Any, steps: int, skipped: int) -> Mapping[str, float]:
    """Count what the engine did, and say how often it did it. After an overflow of float16 it skips the step, and its
    norm is still that of an earlier one."""
    call.steps = call.steps or 0
    if engine.global_steps != steps and engine.skipped_steps != skipped:
        call.skipped += 1
    elif engine.global_steps != steps:
        call.steps += 1
        norm = engine.get_global_grad_norm()
        if norm is not None:
            call.norms.append(norm.detach().double() if hasattr(norm, "detach") else float(norm))
    return {"made": float(engine.global_steps - steps)}


def _report(process: Process) -> None:
    call = process.shared(Training).call
    if call is None or process.emitter is None:
        return
    clock = time.perf_counter()
    _add_up(process, call)
    values = compute(process, {f"{call.name}_training": _summary, "micro_batches": _filled}, call)
    if values:
        values["rlhfd/overhead/training_seconds"] = call.seconds + time.perf_counter() - clock
        process.emitter.emit(process.shared(Position).step, values)


def _filled(call: Call) -> dict[str, float]:
    batches = [] if call.unseen else call.masks.take()
    if not batches:
        return {}
    args = getattr(call.trainer, "args", None) or getattr(getattr(call.trainer, "strategy", None), "args", None)
    return summary(f"rlhfd/{call.name}", batches, Layout.of(args))


def _summary(call: Call) -> dict[str, float]:
    totals = call.totals.complete()
    numbers = read([*totals.values(), *call.norms])
    values: dict[str, float] = call.signals.summary(dict(zip(totals, numbers, strict=False)))
    if call.steps is None or call.missed:
        return values
    values[f"rlhfd/{call.name}/optimizer_steps"] = float(call.steps)
    values[f"rlhfd/{call.name}/skipped_steps"] = float(call.skipped)
    if norms := numbers[len(totals) :]:
        values[f"rlhfd/{call.name}/gradient_norm_mean"] = mean(norms)
        values[f"rlhfd/{call.name}/gradient_norm_max"] = greatest(norms)
        values[f"rlhfd/{call.name}/gradient_norm_last"] = norms[-1]
    return values
