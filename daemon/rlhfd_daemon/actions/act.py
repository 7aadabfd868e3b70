"""One action of one opening of an episode, from the decision to what became of it; a row beside the messages."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

__all__ = ["Act", "ActionError", "act_id"]


class ActionError(Exception):
    """An action was not carried out; the text says why."""


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """``name`` is the action's in the configuration, ``type`` its kind. ``decided_at`` is unix seconds by record.

    ``decided``: nothing was done yet, as far as is known; ``asked``: the emitter of ``stream`` is being asked, since
    ``asked_at``; ``accepted``: it will answer; ``over``.
    """

    id: str
    name: str
    type: Literal["sentinel", "signal", "checkpoint", "stop"]
    dry_run: bool
    run: str
    boot: str
    rule: str
    episode: str
    opening: int
    step: int | None
    summary: str
    decided_at: float
    state: Literal["decided", "asked", "accepted", "over"] = "decided"
    stream: str = ""
    asked_at: float = 0.0


def act_id(name: str, run: str, boot: str, episode: str, opening: int) -> str:
    """The same for the same opening, whoever decides it and how often."""
    parts = "\0".join((name, run, boot, episode, str(opening)))
    return "act_" + hashlib.sha256(parts.encode("utf-8", "replace")).hexdigest()[:16]
