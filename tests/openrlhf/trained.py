"""Runs of SFT, RM and DPO under observation that save a checkpoint at every step."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf.lab import Lab, Process
from openrlhf.runs import PACKED, rows, start_dpo, start_rm, start_sft, under_rlhfd
from openrlhf.watched import EVERY_STEP, Watched, watched
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.runs import DAEMON_ROLE
from support import DaemonProcess

STEPS = 6
LORA = ("--ds.lora.rank", "4", "--ds.lora.alpha", "8")
ZERO3 = ("--ds.zero_stage", "3")
RANKS: dict[str, tuple[Callable[..., Process], int, tuple[str, ...]]] = {
    "sft": (start_sft, 1, ()),
    "sft-packed": (start_sft, 1, PACKED),
    "sft-two-ranks": (start_sft, 2, ()),
    "sft-lora-zero3": (start_sft, 1, (*LORA, *ZERO3)),
    "rm": (start_rm, 1, ()),
    "dpo": (start_dpo, 1, ()),
}
if os.environ.get("RLHFD_ALL_CHECKPOINTS"):  # two minutes more, for what the others show in other pairings
    RANKS |= {"sft-zero3": (start_sft, 2, ZERO3), "sft-lora": (start_sft, 1, LORA)}


@dataclass(frozen=True)
class Trained:
    """What is left of a run: what its processes sent, OpenRLHF's own rows, the shim's tensors, its checkpoints."""

    frames: list[Frame]
    logged: list[dict[str, Any]]
    dump: Path
    watched: Watched


def train(lab: Lab, daemon: DaemonProcess, name: str, folder: Path) -> Trained:
    """The run of that name in ``RANKS``."""
    start, ranks, extra = RANKS[name]
    trace, dump = folder / "trace.jsonl", folder / "dump"
    dump.mkdir()
    process = start(
        lab, name, steps=STEPS, ranks=ranks, log=folder / "run.log", trace=trace, env={"LAB_DUMP": str(dump)},
        prefix=under_rlhfd(lab, name, daemon.endpoint), extra=(*EVERY_STEP, *extra),
    )  # fmt: skip
    seen = watched(process, folder / name)
    frames = [frame for frame in daemon.frames() if frame.run == name and frame.role != DAEMON_ROLE]
    return Trained(frames, rows(trace), dump, seen)
