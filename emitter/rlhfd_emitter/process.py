"""What the hooks of one OpenRLHF process share: its emitter, its role, its current step and its open phases."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from rlhfd_emitter.emitter import Emitter
from rlhfd_emitter.hook import Hook, describe, guarded
from rlhfd_emitter.metadata import host

__all__ = ["Process", "guarded", "ray_role"]

State = TypeVar("State")
COST_SECONDS = 60.0  # between two reports of what the hooks cost


class Process:
    """The observed process. Its emitter is made when the first hook knows the role, never at interpreter start."""

    def __init__(self) -> None:
        self.emitter: Emitter | None = None
        self.role: str | None = None
        self.step: int | None = None
        self.bound: list[str] = []
        self.missing: list[str] = []
        self.changed: dict[str, str] = {}  # symbol to the parameters that it should have
        self._phase_ids = itertools.count(1)
        self._under_way: dict[int, str] = {}
        self._pid = 0
        self._run_reported = False
        self._hooks: dict[str, Hook] = {}
        self._costed = (time.monotonic(), 0.0)
        self._states: dict[type, Any] = {}

    def open(self, role: str, rank: int | None = None, **fields: object) -> Emitter:
        """The process's emitter; the first call reports ``process_start`` with ``fields`` and the bound hooks."""
        if self.emitter is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self.role = ray_role() or role
            self.emitter = Emitter(role=self.role, rank=rank)
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            self.emitter.event("process_start", ppid=os.getppid(), cuda_visible_devices=visible, **host(), **fields)
            self.report_hooks()
            for hook in list(self._hooks.values()):
                if hook.error:
                    self.report_failed(hook)
        return self.emitter

    def hook(self, name: str) -> Hook:
        """The hook ``name`` of this process, made when it is first asked for."""
        found = self._hooks.get(name)
        if found is None:
            found = self._hooks.setdefault(name, Hook(name, self.report_failed))
        return found

    def report_hooks(self) -> None:
        """Say which hooks hold and which symbols this OpenRLHF does not have, or without what the hook reads."""
        if self.emitter is not None:
            self.emitter.event("attached", bound=self.bound, missing=self.missing, changed=self.changed)

    def report_run(self, arguments: Mapping[str, object], **fields: object) -> None:
        """Report the run's metadata, once per process."""
        if self.emitter is not None and not self._run_reported:
            self._run_reported = True
            self.emitter.event("run_start", args=arguments, **fields)

    def report_failed(self, hook: Hook) -> None:
        """Say that ``hook`` failed for the first time, or switched itself off: what it saw is missing from here on."""
        if self.emitter is not None:
            fields = {"hook": hook.name, "error": hook.error, "failures": hook.failures, "disabled": hook.off}
            self.emitter.event("hook_failed", step=self.step, **fields)

    def report_cost(self, now: float) -> None:
        """Report once a minute which share of the time since the last report our own code took; ``now`` is monotonic.

        What runs in several threads at once counts as often."""
        since, before = self._costed
        if now - since < COST_SECONDS or self.emitter is None:
            return
        # A group of signals is computed inside a hook.
        seconds = sum(hook.seconds for name, hook in list(self._hooks.items()) if not name.startswith("signals."))
        self._costed = (now, seconds)
        self.emitter.emit(None, {"rlhfd/overhead/hooks_ratio": (seconds - before) / (now - since)})

    def shared(self, kind: type[State]) -> State:
        """The one object of ``kind`` in this process: what several hooks remember together."""
        state: State | None = self._states.get(kind)
        return self._states.setdefault(kind, kind()) if state is None else state

    def begin(self, phase: str) -> tuple[str, int, float] | None:
        """Open a phase; hand the result to :meth:`end`."""
        emitter = self.emitter if self.emitter is not None else self.open("unknown")
        token = (phase, next(self._phase_ids), time.monotonic())
        emitter.event("phase_begin", step=self.step, phase=phase, id=token[1])
        self.report_cost(token[2])
        self._under_way[token[1]] = phase
        return token

    def end(self, token: tuple[str, int, float] | None, error: BaseException | None = None) -> None:
        """Close a phase; ``error`` is what ended it, if it did not end well."""
        if token is None or self.emitter is None:
            return
        phase, number, began = token
        self._under_way.pop(number, None)
        fields: dict[str, object] = {"phase": phase, "id": number, "seconds": time.monotonic() - began}
        if error is not None:
            fields["error"] = describe(error)
        self.emitter.event("phase_end", step=self.step, **fields)

    def under_way(self, phase: str) -> bool:
        """Whether a phase of that name is open."""
        return phase in list(self._under_way.values())


def ray_role(cmdline: Path = Path("/proc/self/cmdline")) -> str | None:
    """The actor class that Ray wrote into this process's title, as in ``ray::PolicyModelActor.fit``."""
    try:
        title = cmdline.read_bytes().split(b"\0")[0].decode("utf-8", "replace")
    except OSError:
        return None
    match = re.match(r"ray::(?!IDLE)([^\s.(]+)", title)
    return match.group(1) if match else None
