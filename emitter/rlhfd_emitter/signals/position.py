"""Which training step a model actor is at; nobody tells it, so it counts its batches from its checkpoint on."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from rlhfd_emitter.process import Process
from rlhfd_emitter.signals.batch import setting
from rlhfd_emitter.wrappers import reads


class Position:
    """What the hooks of one model actor remember. ``start`` is the step of the checkpoint that it goes on from, 0
    without one, ``None`` if it is not known."""

    def __init__(self) -> None:
        self.start: int | None = 0
        self.loaded = False
        self.batches = 0

    @property
    def step(self) -> int | None:
        """The step under which OpenRLHF will log the batch that was appended last."""
        return None if self.start is None else self.start + self.batches


def loaded(process: Process, result: Any) -> None:
    """``DeepspeedStrategy.load_ckpt`` returned a path and the states that were saved with the policy."""
    position = process.shared(Position)
    position.loaded, position.start = True, None
    path, states = result
    step = states.get("global_step") if isinstance(states, Mapping) else None
    if isinstance(step, int):
        position.start = step
    elif found := re.search(r"global_step(\d+)", str(path)):  # the critic's, and the policy's before 0.8.3
        position.start = int(found[1])


@reads("method_name")
def appended(process: Process, arguments: Mapping[str, Any]) -> None:
    """``execute_batch`` of a model actor: each step begins with one of the method ``append``, also while the policy is
    frozen and does not train."""
    if arguments.get("method_name") != "append":
        return
    position = process.shared(Position)
    if not position.batches and not position.loaded and _went_on_without(arguments["self"]):
        position.start = None
    position.batches += 1


def _went_on_without(actor: Any) -> bool:
    """Whether the policy has loaded a checkpoint that this actor, a critic, has none of. Before the first step no
    policy of this run can have saved one."""
    args = getattr(getattr(actor, "strategy", None), "args", None)
    folder = setting(args, "ckpt.path", "ckpt_path")
    if not folder or not setting(args, "ckpt.load_enable", "load_checkpoint"):
        return False
    return os.path.exists(os.path.join(folder, "_actor"))
