"""Writes every stretch of rlhfd's own code in a hook to ``LAB_OVERHEAD/<pid>.jsonl``: ``[time, hook, cpu, wall]``.

``time`` is in Unix seconds, when the outermost stretch ended; ``cpu`` and ``wall`` are the microseconds of the stretch
less those of the stretches inside it, by the clock of its thread and by the clock on the wall. The writing is in
nobody's figures; it makes a run slower, though, so that step times are compared in runs without this.
"""

from __future__ import annotations

import json
import os
import threading
import time
from types import ModuleType
from typing import Any

from lab_imports import after_import


class Open(threading.local):
    """The stretches of a thread: what those under way lose to inner ones, and what has ended inside the outermost."""

    def __init__(self) -> None:
        self.inner: list[list[float]] = []
        self.ended: list[tuple[str, float, float]] = []


_open = Open()


@after_import("rlhfd_emitter.hook")
def _note_costs(module: ModuleType) -> None:
    original = module.Hook.guarded

    def guarded(self: Any, action: Any, *arguments: Any, **keywords: Any) -> Any:
        inner = [0.0, 0.0]
        _open.inner.append(inner)
        began = _clocks()
        try:
            return original(self, action, *arguments, **keywords)
        finally:
            ended = _clocks()
            _open.inner.pop()
            cpu, wall = (end - begin - less for end, begin, less in zip(ended, began, inner, strict=True))
            _open.ended.append((self.name, cpu, wall))
            _leave(began)

    module.Hook.guarded = guarded


def _clocks() -> tuple[float, float]:
    return time.thread_time(), time.perf_counter()


def _leave(began: tuple[float, float]) -> None:
    """What is noted here is not the outer stretch's, either; behind the outermost all is written."""
    if _open.inner:
        outer = _open.inner[-1]
        for place, (now, begin) in enumerate(zip(_clocks(), began, strict=True)):
            outer[place] += now - begin
        return
    now, ended, _open.ended = time.time(), _open.ended, []
    lines = [json.dumps([now, name, cpu * 1e6, wall * 1e6]) + "\n" for name, cpu, wall in ended]
    with open(os.path.join(os.environ["LAB_OVERHEAD"], f"{os.getpid()}.jsonl"), "a", encoding="utf-8") as file:
        file.write("".join(lines))
