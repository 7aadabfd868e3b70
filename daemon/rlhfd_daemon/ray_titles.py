"""Understands the titles that Ray gives its worker processes: which actor one is, and which method runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Actor", "Title", "Use", "is_ray", "parse_title"]

MAX_NAME = 64  # a part of a metric name, which may have 128 bytes
MAX_METHOD = 100
PREFIX = "ray::"
# Spare workers, those that move objects to disk and back, and the agents of the node: _private/ray_constants.py.
_NO_ACTOR = re.compile(r"IDLE|(?:IDLE|SPILL|RESTORE|DELETE)_(?:Spill|Restore)Worker|DashboardAgent|RuntimeEnvAgent")
_NOT_IN_NAMES = re.compile(r"[^\w.<>-]")


class Title(NamedTuple):
    """``actor`` is the class of the actor, ``method`` what runs; ``None``: nothing does."""

    actor: str
    method: str | None


class Use(NamedTuple):
    """``busy_ratio`` is the share of the samples in which a method ran; ``method_seconds`` how long the present one has
    been running, 0 if none is."""

    busy_ratio: float
    method_seconds: float


@dataclass
class Actor:
    """What the title of one actor's process has shown since the last :meth:`take`. Times in monotonic seconds."""

    name: str
    first_seen: float
    method: str | None = None
    since: float = 0.0
    samples: int = 0
    busy: int = 0

    def see(self, method: str | None, now: float) -> None:
        """One sample. A method that is called again between two samples counts as one call that lasts."""
        if method != self.method:
            self.method, self.since = method, now
        self.samples += 1
        self.busy += method is not None

    def take(self, now: float) -> Use | None:
        """What the samples say, which are then forgotten; ``None`` without any."""
        samples, busy, self.samples, self.busy = self.samples, self.busy, 0, 0
        if not samples:
            return None
        return Use(busy / samples, 0.0 if self.method is None else now - self.since)


def is_ray(title: str) -> bool:
    """Whether a process with this command line is one of Ray's workers or agents."""
    return title.startswith(PREFIX)


def parse_title(title: str, actor: str | None = None) -> Title | None:
    """``ray::Class`` or ``ray::Class.method``; ``actor`` is the class if it is known: a call may have been given
    any name. ``None`` for everything else. A running task has the title of an idle actor; it is taken for a task if
    the name begins with a small letter, as functions do."""
    text = title.removeprefix(PREFIX)
    if not is_ray(title) or not text or _NO_ACTOR.fullmatch(text):
        return None
    if actor is not None and _name(text) == actor:
        return Title(actor, None)
    before, dot, method = text.rpartition(".")
    if actor is not None:
        return Title(actor, _method(method if _name(before) == actor else text))
    if dot and before and method:
        return Title(_name(before), _method(method))
    return None if text.lstrip("_")[:1].islower() else Title(_name(text), None)


def _name(text: str) -> str:
    return _NOT_IN_NAMES.sub("_", text)[:MAX_NAME]


def _method(text: str) -> str:
    return "".join(char if char.isprintable() else "_" for char in text[:MAX_METHOD])
