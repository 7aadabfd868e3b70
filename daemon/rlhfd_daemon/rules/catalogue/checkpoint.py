"""Checkpoints."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import OURS, WARNING

__all__ = ["ROWS"]

ROWS = (
    row(
        "no_checkpoint", "A checkpoint is overdue", "checkpoint", WARNING,
        analyzer="absence", metrics=("checkpoint",),
        summary="no checkpoint has been written, though they used to come at a steady interval",
        remedy="Look at the log of the process that saves and at the free space below --ckpt.path "
        "(disk/<device>/free_bytes); --ckpt.save_steps says how often it should, --ckpt.max_num and --ckpt.max_mem how "
        "many are kept. Until one is written, a crash costs everything since the last.",
        source=OURS,
    ),
)  # fmt: skip
