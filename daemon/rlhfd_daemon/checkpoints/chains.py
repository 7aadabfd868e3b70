"""Which checkpoints follow upon each other."""

from __future__ import annotations

import os
from itertools import groupby

from rlhfd_daemon.checkpoints.layout import Description, Layout

__all__ = ["chains"]


def chains(layout: Layout) -> list[list[Description]]:
    """The checkpoints of one kind and role that lie beside each other, by step: each may be compared with the one
    before it."""

    def place(one: Description) -> tuple[str, str, str]:
        return os.path.dirname(one.path), one.kind, one.role or ""

    ordered = sorted(layout.checkpoints, key=lambda one: (*place(one), -1 if one.step is None else one.step, one.path))
    return [list(chain) for _, chain in groupby(ordered, key=place)]
