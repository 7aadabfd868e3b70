"""A run's folder, looked at without a pause while OpenRLHF writes checkpoints into it.

``RLHFD_KEEP_CHECKPOINTS`` names a folder to which the runs' folders are copied when they are over.
"""

from __future__ import annotations

import functools
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from openrlhf.lab import Process
from rlhfd_daemon.checkpoints.completeness import Known, Limits
from rlhfd_daemon.checkpoints.layout import Description, Layout, describe
from rlhfd_daemon.checkpoints.scan import Scanner
from rlhfd_daemon.checkpoints.tracking import Change, News, Tracked, track

RUN_SECONDS = 500.0
LIMITS = Limits(settle_seconds=2.0, broken_seconds=60.0)
EVERY_STEP = ("--ckpt.save_steps", "1", "--ckpt.max_num", "2", "--ckpt.save_hf")


@dataclass
class Watched:
    """What was seen of a run's folder: every change, and the states that a checkpoint had when it was looked at."""

    folder: Path
    layout: Layout
    changes: list[Change] = field(default_factory=list)

    def news(self, news: News) -> list[str]:
        """The paths of which this was said, in order."""
        return [change.description.path for change in self.changes if change.news is news]


def watched(process: Process, folder: Path) -> Watched:
    """Look at ``folder`` until the run is over, which must end well, and then until everything has settled."""
    scanner, tracked, found = Scanner(), Tracked(str(folder)), Watched(folder, Layout())
    deadline = time.monotonic() + RUN_SECONDS
    alive = True
    with process:
        while alive or tracked.unsettled:
            assert time.monotonic() < deadline, f"not over: {tracked.states}\n{process.tail()}"
            alive = process.returncode is None
            known = functools.partial(_said, Known(alive=alive))
            tree = scanner.scan(str(folder))
            if tree is not None:
                found.layout = describe(tree)
                tracked, changes = track(tracked, found.layout, time.time(), known, LIMITS)
                found.changes += changes
            time.sleep(0.02 if alive else 0.2)
    keep = os.environ.get("RLHFD_KEEP_CHECKPOINTS")
    if keep:
        shutil.copytree(folder, Path(keep) / folder.name, dirs_exist_ok=True, symlinks=True)
    assert process.returncode == 0, process.tail()
    return found


def _said(known: Known, _found: Description) -> Known:
    return known
