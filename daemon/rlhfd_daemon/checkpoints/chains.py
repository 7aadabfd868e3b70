"""Which checkpoints follow upon each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby

from rlhfd_daemon.checkpoints.layout import Description, Layout

__all__ = ["before", "chains"]


def chains(layout: Layout) -> list[list[Description]]:
    """The checkpoints of one kind and role that lie beside each other, by step."""

    def place(one: Description) -> tuple[str, str, str]:
        return os.path.dirname(one.path), one.kind, one.role or ""

    ordered = sorted(layout.checkpoints, key=lambda one: (*place(one), -1 if one.step is None else one.step, one.path))
    return [list(chain) for _, chain in groupby(ordered, key=place)]


def before(found: Description, chain: Sequence[Description]) -> list[Description]:
    """Those of its chain that ``found`` may be compared with, none where names tell no steps: the newest of the
    earlier ones first, the best of an evaluation last. In asynchronous training (OpenRLHF ``ppo_trainer_async.py``)
    these are named after the step that was evaluated, and their weights are of a later one."""
    if found.step is None:
        return []
    earlier = [one for one in reversed(chain) if one.step is not None and one.step < found.step]
    return sorted(earlier, key=lambda one: one.best)
