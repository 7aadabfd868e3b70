"""What is asked of the process that judges a checkpoint, what it answers, and what is kept of that."""

from __future__ import annotations

import msgspec

__all__ = ["Answer", "Found", "Judgement", "Question"]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """``path`` and ``before`` are below ``root``; ``rate`` in bytes per second, 0 for no limit. ``stamp`` is that of
    the complete checkpoint: if its files are others, it is being deleted or written anew. Empty: not known."""

    root: str
    path: str
    before: str | None = None
    rate: float = 0.0
    stamp: str = ""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The issues of one kind: how many, the first, and what they are about."""

    kind: str
    count: int
    subject: str
    summary: str
    subjects: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon keeps of a judgement. ``error`` says why there is none; empty otherwise."""

    error: str = ""
    vanished: bool = False
    score: float = 1.0
    severity: str | None = None
    bytes: int = 0
    seconds: float = 0.0
    compared: str | None = None
    issues: tuple[Found, ...] = ()
    optimizer_steps: int | None = None
    relative_update: float | None = None  # the median over the tensors
    unchanged: int = 0
    norm: float | None = None  # of all weights
    updates: dict[str, float] = {}  # relative ones by tensor, unless there are too many tensors


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint as it was judged at ``time`` (Unix seconds), when the run was at ``run_step``."""

    time: float
    path: str
    format: str
    role: str | None
    step: int | None
    run_step: int | None
    answer: Answer
