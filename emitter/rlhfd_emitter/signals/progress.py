"""Where the trainer stands: the step that comes next, its weight broadcasts, and how old the policy of a sample is."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rlhfd_emitter.process import Process, guarded
from rlhfd_emitter.signals.batch import setting
from rlhfd_emitter.wrappers import Function

MAX_BROADCASTS = 4096
GENERATED_AT = "_rlhfd_generated_at"
GENERATOR = "GenerateSamplesActor"  # of asynchronous training


class Progress:
    """What the hooks of one trainer process remember. Times are Unix seconds."""

    def __init__(self) -> None:
        self.resumed: int | None = None  # the step of the checkpoint, 0 without one; None: not known
        self.last: int | None = None
        self.batches = 0
        self.broadcasts: deque[float] = deque(maxlen=MAX_BROADCASTS)  # when each that was completed began

    def next_step(self, process: Process, args: Any) -> int | None:
        """The step under which OpenRLHF will log the batch that is made now: it counts from 1 and goes on behind a
        checkpoint's. ``None`` for the first one behind a checkpoint before 0.9.1."""
        done = process.step if process.step is not None else self.last if self.last is not None else self.resumed
        if done is None:
            done = None if setting(args, "load_checkpoint") else 0
        return None if done is None else done + 1

    def trained(self, step: int | None) -> None:
        """A batch was handed to the training of ``step``."""
        self.last = step
        self.batches += 1

    def lags(self, generated_at: Sequence[float | None]) -> Mapping[str, float]:
        """How many broadcasts later than its generation each sample is trained on, of those whose time is known.

        The beginning of a broadcast is compared, since a generation that waited for it begins right at its end.
        """
        known = [moment for moment in generated_at if moment is not None]
        # Before 0.9.1 the asynchronous trainer's broadcasts are not seen: then there is none after a batch, either.
        if not known or (self.batches and not self.broadcasts):
            return {}
        lags = [sum(began > moment for began in self.broadcasts) for moment in known]
        return {"rlhfd/policy_lag/mean": sum(lags) / len(lags), "rlhfd/policy_lag/max": float(max(lags))}


def generated_at(samples: Any) -> list[float | None]:
    """When the generation of each sample began, as :func:`stamp` noted it; also where Ray has carried it."""
    return [getattr(sample, GENERATED_AT, None) for sample in samples] if isinstance(samples, (list, tuple)) else []


def stamp(samples: Sequence[Any], moment: float) -> None:
    """Note on each sample when its generation began. Not in ``info``: OpenRLHF would log it."""
    for sample in samples:
        if hasattr(sample, "__dict__"):
            setattr(sample, GENERATED_AT, moment)


def resumed(process: Process, states: Any) -> None:
    """``BasePPOTrainer.init_checkpoint_states`` returned."""
    step = states.get("global_step") if isinstance(states, Mapping) else None
    if isinstance(step, int):
        process.shared(Progress).resumed = step


def broadcast(process: Process, original: Function) -> Function:
    """``BasePPOTrainer.broadcast_to_vllm``: counted when it has succeeded."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        began = time.time()
        result = original(*args, **kwargs)
        guarded(lambda: process.shared(Progress).broadcasts.append(began))
        return result

    return wrapper
