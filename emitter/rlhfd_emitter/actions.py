"""Carries out what was asked of a PPO trainer, in the training's own thread at the end of a step: save, and stop.

A checkpoint is one that OpenRLHF makes itself: for that one call ``save_steps`` is 1. A stop is the end of the prompts:
``SamplesGenerator.generate_samples`` says that there are no more, and the run ends as it always does.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from rlhfd_emitter.process import Process, guarded
from rlhfd_emitter.requests import Request, Requests
from rlhfd_emitter.signals.batch import setting
from rlhfd_emitter.wrappers import Function, named, positional, read_by, reads

__all__ = ["generate_samples", "step_end", "trainer_ready"]

SYNCHRONOUS = "PPOTrainer"
TRAINERS = (SYNCHRONOUS, "TrainingActor")
ASYNCHRONOUS = "in asynchronous training the trainer cannot end the run, only save a checkpoint"
NO_STOP = "this version of OpenRLHF hands the prompts to generate_samples: the run cannot be ended from there"
NO_SAVING = "OpenRLHF is told to save no checkpoints (--ckpt.disable_ds)"


class Ending:
    """What the hooks of one trainer process share."""

    def __init__(self) -> None:
        self.can_save = False
        self.can_stop = False
        self.is_over = False


def trainer_ready(process: Process, _arguments: Mapping[str, Any]) -> None:
    """``BasePPOTrainer.__init__``: from here on the process can be asked."""
    if process.emitter is None or process.role not in TRAINERS:
        return
    ending = process.shared(Ending)
    no_save = "" if ending.can_save else "this version of OpenRLHF saves in another place"
    no_stop = ASYNCHRONOUS if process.role != SYNCHRONOUS else "" if ending.can_stop else NO_STOP
    process.emitter.requests.able = {"checkpoint": no_save, "stop": no_save or no_stop}


class _Saving:
    """``requests`` are carried out by this call of ``save_logs_and_checkpoints``; ``place`` holds ``save_steps``."""

    def __init__(self, asked: Requests, requests: Sequence[Request], step: Any, args: Any) -> None:
        self._asked = asked
        self._requests = requests
        self._step = step
        self._place: Any = getattr(args, "ckpt", args)  # before 0.10.2 the arguments were flat
        self._path = setting(args, "ckpt.path", "ckpt_path")
        self._saves = not setting(args, "ckpt.disable_ds", "disable_ds_ckpt") or bool(
            setting(args, "ckpt.save_hf", "save_hf_ckpt")
        )
        self._before = self._place.save_steps

    def begin(self) -> None:
        """Have every step be one to save at."""
        if self._saves:
            self._place.save_steps = 1

    def restore(self) -> None:
        """As it was."""
        self._place.save_steps = self._before

    def failed(self, error: BaseException) -> None:
        """The call raised, which ends the run."""
        for request in self._requests:
            self._asked.settle(request, "failed", step=self._step, reason=f"{type(error).__name__}: {error}"[:500])

    def done(self, ending: Ending) -> None:
        """The call has returned."""
        saved = {"tag": f"global_step{self._step}", "path": str(self._path)} if self._saves else {"reason": NO_SAVING}
        for request in self._requests:
            if request.action == "stop":
                ending.is_over = True
            elif not self._saves:
                self._asked.settle(request, "refused", step=self._step, reason=NO_SAVING)
                continue
            self._asked.settle(request, "done", step=self._step, **saved)


@reads("global_step|global_steps")
def _prepared(asked: Requests, waiting: Sequence[Request], arguments: Mapping[str, Any]) -> _Saving | None:
    try:
        trainer, step = arguments["self"], arguments.get("global_step", arguments.get("global_steps"))
        return _Saving(asked, waiting, step, getattr(trainer, "args", None) or trainer.strategy.args)
    except AttributeError as error:
        for request in waiting:
            asked.settle(request, "failed", reason=f"OpenRLHF's arguments are not where they were: {error}")
        return None


@reads(*read_by(_prepared))
def step_end(process: Process, original: Function) -> Function:
    """``save_logs_and_checkpoints``: the end of a step, where everything can be saved."""
    names = positional(original)
    ending = process.shared(Ending)
    ending.can_save = True

    def prepare(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Saving | None:
        asked = None if process.emitter is None else process.emitter.requests
        waiting = () if asked is None else asked.waiting
        return None if asked is None or not waiting else _prepared(asked, waiting, named(names, args, kwargs))

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        saving: Any = guarded(prepare, args, kwargs)
        if saving is None:
            return original(*args, **kwargs)
        try:
            guarded(saving.begin)
            result = original(*args, **kwargs)
        except BaseException as error:
            guarded(saving.failed, error)
            raise
        finally:
            guarded(saving.restore)
        guarded(saving.done, ending)
        return result

    return wrapper


def generate_samples(process: Process, original: Function) -> Function:
    """``SamplesGenerator.generate_samples``: after a stop there are no more prompts, as at the end of the data.

    Before 0.9.1 it was given the prompts and answered with a list: there nothing can be ended, and it is left alone.
    """
    if positional(original) != ("self",):
        return original
    ending = process.shared(Ending)
    ending.can_stop = True

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return ([], None, 0, True) if ending.is_over else original(*args, **kwargs)

    return wrapper
