"""Writes every stretch of rlhfd's own code in a hook to ``LAB_OVERHEAD/<pid>.jsonl``: ``[time, hook, microseconds]``.

``time`` is in Unix seconds, at its end. The writing itself is not in the figures; it makes a run slower, though, so
that step times are compared in runs without this.
"""

from __future__ import annotations

import json
import os
import time
from types import ModuleType
from typing import Any

from lab_imports import after_import


@after_import("rlhfd_emitter.hook")
def _note_costs(module: ModuleType) -> None:
    original = module.Hook.guarded

    def guarded(self: Any, action: Any, *arguments: Any, **keywords: Any) -> Any:
        before = self.seconds
        try:
            return original(self, action, *arguments, **keywords)
        finally:
            line = json.dumps([time.time(), self.name, (self.seconds - before) * 1e6]) + "\n"
            with open(os.path.join(os.environ["LAB_OVERHEAD"], f"{os.getpid()}.jsonl"), "a", encoding="utf-8") as file:
                file.write(line)

    module.Hook.guarded = guarded
