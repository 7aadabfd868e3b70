"""What the hooks of one OpenRLHF process share: its emitter, its role, its current step and its open phases."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rlhfd_emitter.emitter import Emitter
from rlhfd_emitter.log import warn
from rlhfd_emitter.metadata import host

State = TypeVar("State")


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
        self._pid = 0
        self._run_reported = False
        self._failed: set[str] = set()
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
        return self.emitter

    def report_hooks(self) -> None:
        """Say which hooks hold and which symbols this OpenRLHF does not have, or without what the hook reads."""
        if self.emitter is not None:
            self.emitter.event("attached", bound=self.bound, missing=self.missing, changed=self.changed)

    def report_run(self, arguments: Mapping[str, object], **fields: object) -> None:
        """Report the run's metadata, once per process."""
        if self.emitter is not None and not self._run_reported:
            self._run_reported = True
            self.emitter.event("run_start", args=arguments, **fields)

    def report_failure(self, hook: str, error: BaseException) -> None:
        """Report that ``hook`` failed, once per hook: what it saw is missing from here on, the training is not."""
        if self.emitter is not None and hook not in self._failed:
            self._failed.add(hook)
            self.emitter.event("hook_failed", step=self.step, hook=hook, error=f"{type(error).__name__}: {error}"[:500])

    def shared(self, kind: type[State]) -> State:
        """The one object of ``kind`` in this process: what several hooks remember together."""
        state: State = self._states.setdefault(kind, kind())
        return state

    def begin(self, phase: str) -> tuple[str, int, float] | None:
        """Open a phase; hand the result to :meth:`end`."""
        emitter = self.emitter if self.emitter is not None else self.open("unknown")
        token = (phase, next(self._phase_ids), time.monotonic())
        emitter.event("phase_begin", step=self.step, phase=phase, id=token[1])
        return token

    def end(self, token: tuple[str, int, float] | None, error: BaseException | None = None) -> None:
        """Close a phase; ``error`` is what ended it, if it did not end well."""
        if token is None or self.emitter is None:
            return
        phase, number, began = token
        fields: dict[str, object] = {"phase": phase, "id": number, "seconds": time.monotonic() - began}
        if error is not None:
            fields["error"] = f"{type(error).__name__}: {error}"[:500]
        self.emitter.event("phase_end", step=self.step, **fields)


def ray_role(cmdline: Path = Path("/proc/self/cmdline")) -> str | None:
    """The actor class that Ray wrote into this process's title, as in ``ray::PolicyModelActor.fit``."""
    try:
        title = cmdline.read_bytes().split(b"\0")[0].decode("utf-8", "replace")
    except OSError:
        return None
    match = re.match(r"ray::(?!IDLE)([^\s.(]+)", title)
    return match.group(1) if match else None


def guarded(action: Callable[..., object], *arguments: object, **keywords: object) -> object:
    """Call our own ``action``; whatever goes wrong in it stays here, with one line a minute in the log."""
    try:
        return action(*arguments, **keywords)
    except Exception as error:  # noqa: BLE001 - the oath: a hook never harms the call it watches
        try:
            warn("hook", "rlhfd: a hook failed and was ignored: %s: %s", type(error).__name__, error)
        except Exception:  # noqa: BLE001 - logging is the user's, too
            return None
        return None
