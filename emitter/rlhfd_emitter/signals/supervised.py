"""How full the micro-batches of SFT, reward models and DPO are: counted on the masks' device, sent by each rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhfd_emitter.process import Process
from rlhfd_emitter.signals.groups import compute
from rlhfd_emitter.signals.micro_batches import Layout, Masks, summary
from rlhfd_emitter.wrappers import reads

NAME = "rlhfd/model"
SFT, PAIRS = ("SFTTrainer",), ("RewardModelTrainer", "DPOTrainer")  # roles of processes that train nothing else


class Window:
    """The micro-batches since the last step; ``unseen``: one of them is missing."""

    def __init__(self) -> None:
        self.masks = Masks()
        self.unseen = False


@reads("attention_mask")
def forward(process: Process, arguments: Mapping[str, Any]) -> None:
    """``Actor.forward``: of SFT the one place that is given each batch."""
    if process.role in SFT and arguments["self"].training:
        _put(process, arguments.get("attention_mask"))


@reads("model", "c_mask", "r_mask")
def forward_pairs(process: Process, arguments: Mapping[str, Any]) -> None:
    """``concatenated_forward`` of reward models and DPO, which makes one batch of chosen and rejected answers. The
    reference model and an evaluation are not training."""
    model = arguments["model"]
    # DeepSpeed's engine hands `train` and `eval` on to its module and does not change itself.
    if process.role in PAIRS and getattr(model, "module", model).training:
        _put(process, arguments["c_mask"], arguments["r_mask"])


def _put(process: Process, *masks: Any) -> None:
    window = process.shared(Window)
    wanted = process.emitter is not None and not process.emitter.muted and all(mask is not None for mask in masks)

    def put(held: Masks) -> Mapping[str, float]:
        held.put(*masks)
        return {"seen": True}

    window.unseen = not (wanted and compute(process, {"micro_batch": put}, window.masks)) or window.unseen


@reads("global_step|global_steps")
def step_end(process: Process, arguments: Mapping[str, Any]) -> None:
    """``save_logs_and_checkpoints``, on every rank. OpenRLHF has read its own losses just before, so nothing is under
    way on the device."""
    window = process.shared(Window)
    masks, unseen = window.masks, window.unseen
    window.masks, window.unseen = Masks(), False
    if unseen or process.emitter is None:
        return
    args = getattr(getattr(arguments["self"], "strategy", None), "args", None)
    filled = {"micro_batches": lambda held: summary(NAME, held.take(), Layout.of(args))}
    if values := compute(process, filled, masks):
        process.emitter.emit(arguments.get("global_step", arguments.get("global_steps")), values)
