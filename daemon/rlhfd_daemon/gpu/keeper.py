"""The children there are: the one at work, the one that is to go, and those that hang in the kernel for good."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from rlhfd_daemon.gpu.process import Child

__all__ = ["MAX_ABANDONED", "Keeper", "Settled"]

MAX_ABANDONED = 2


class Settled(NamedTuple):
    """What became of a child that was to go."""

    child: Child
    abandoned: bool


class Keeper:
    """At most one child at work and none beside it that may still hold a GPU, but for abandoned ones."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self._leaving: Child | None = None
        self._abandoned: list[Child] = []

    @property
    def may_begin(self) -> bool:
        return self.child is None and self._leaving is None and len(self._abandoned) < MAX_ABANDONED

    @property
    def holders(self) -> list[int]:
        """The pids of all that may hold a GPU."""
        children = (self.child, self._leaving, *self._abandoned)
        return [child.pid for child in children if child is not None and not child.is_gone]

    def let_go(self) -> None:
        """The child at work is to end; :meth:`settle` says when it has."""
        if self.child is not None:
            self.child.end()
            self._leaving, self.child = self.child, None

    def settle(self) -> Settled | None:
        """To be called again and again: kills what is late, abandons what cannot be killed, reaps the rest."""
        for child in [child for child in self._abandoned if child.is_gone]:
            child.close()
            self._abandoned.remove(child)
        leaving = self._leaving
        if leaving is None:
            return None
        leaving.push()
        if leaving.is_gone:
            leaving.close()
        elif leaving.is_abandoned:
            self._abandoned.append(leaving)
        else:
            return None
        self._leaving = None
        return Settled(leaving, leaving in self._abandoned)

    async def wait(self, seconds: float) -> list[Settled]:
        """Settle until nobody is leaving, at most for ``seconds``."""
        deadline, settled = time.monotonic() + seconds, []
        while self._leaving is not None and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            one = self.settle()
            settled += [] if one is None else [one]
        return settled

    def kill(self) -> None:
        """Do not wait for the one that is to go."""
        if self._leaving is not None:
            self._leaving.kill()
