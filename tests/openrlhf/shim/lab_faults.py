"""What the lab does on request of ``LAB_*`` variables: records what OpenRLHF logs, and breaks rlhfd.

``LAB_TRACE=FILE``                  append every logged row to FILE, one JSON object a line
``LAB_BREAK_RLHFD=raise``           every call of the emitter raises
``LAB_BREAK_RLHFD=hooks``           one hook finds its function renamed, three others raise, see ``_break_hooks``
``LAB_BREAK_RLHFD=unimportable``    only carried on here: the driver's PYTHONPATH has ``unimportable/`` in front
"""

from __future__ import annotations

import atexit
import json
import os
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from lab_imports import after_import


def install(environ: Mapping[str, str]) -> None:
    """Register what ``environ`` asks for."""
    _carry_settings_to_workers(environ)
    if environ.get("LAB_TRACE"):
        _record(Trace(environ["LAB_TRACE"]))
    if environ.get("LAB_BREAK_RLHFD") == "raise":
        after_import("rlhfd_emitter.emitter")(_break_emitter)
    if environ.get("LAB_BREAK_RLHFD") == "hooks":
        after_import("rlhfd_emitter.hooks")(_break_hooks)


def _carry_settings_to_workers(environ: Mapping[str, str]) -> None:
    # Workers of a Ray head that is already running have the head's environment, not the driver's.
    variables = {name: value for name, value in environ.items() if name.startswith("LAB_")}
    if environ.get("LAB_BREAK_RLHFD") == "unimportable":
        variables["PYTHONPATH"] = environ["PYTHONPATH"]

    @after_import("ray")
    def patch(ray: ModuleType) -> None:
        original = ray.init

        def init(*args: Any, **kwargs: Any) -> Any:
            runtime_env = dict(kwargs.get("runtime_env") or {})
            runtime_env["env_vars"] = {**(runtime_env.get("env_vars") or {}), **variables}
            kwargs["runtime_env"] = runtime_env
            return original(*args, **kwargs)

        ray.init = init


class Trace:
    """Appends rows ``{"step", "time", "pid", "train/...": float}`` to a file; a row of ``eval/`` keys has ``kind``.

    Floats are written with all their digits, NaN and infinity as Python's json does.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._pending: tuple[int, str, dict[str, Any]] | None = None
        self.in_logger = False
        atexit.register(self.flush)

    def row(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Write one row now. ``values`` have OpenRLHF's own keys, without ``train/`` or ``eval/``."""
        row: dict[str, Any] = {"step": int(step), "time": time.time(), "pid": os.getpid()}
        if kind != "train":
            row["kind"] = kind
        for key, value in values.items():
            if key == "generated_samples":
                if value is not None:
                    row["sample_text"], row["sample_reward"] = value[0], _number(value[1])
            elif value is not None:
                row[f"{kind}/{key}"] = _number(value)
        line = json.dumps(row) + "\n"
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(line)

    def scalar(self, tag: str, value: Any, step: int) -> None:
        """Add one scalar; the row is written when another one begins and at :meth:`flush`."""
        kind, _, key = tag.partition("/")
        if self._pending is None or self._pending[:2] != (step, kind) or key in self._pending[2]:
            self.flush()
            self._pending = (step, kind, {})
        self._pending[2][key] = value

    def flush(self) -> None:
        """Write the row that is being collected, if any."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self.row(*pending)


def _number(value: Any) -> float | str:
    try:
        return float(value)
    except (TypeError, ValueError):
        return repr(value)


def _record(trace: Trace) -> None:
    @after_import("openrlhf.utils.logging_utils")
    def patch_logger(module: ModuleType) -> None:
        logger = module.TensorboardLogger
        for method, kind in (("log_train", "train"), ("log_eval", "eval")):
            setattr(logger, method, _recorded(getattr(logger, method), trace, kind))

    @after_import("torch.utils.tensorboard.writer")
    def patch_writer(module: ModuleType) -> None:
        add_scalar, close = module.SummaryWriter.add_scalar, module.SummaryWriter.close

        def recorded_add_scalar(
            self: Any, tag: str, scalar_value: Any, global_step: int | None = None, *args: Any, **kwargs: Any
        ) -> Any:
            if not trace.in_logger:  # PPO's logger writes through here too; its rows are taken whole above
                trace.scalar(tag, scalar_value, global_step or 0)
            return add_scalar(self, tag, scalar_value, global_step, *args, **kwargs)

        def recorded_close(self: Any) -> Any:
            trace.flush()
            return close(self)

        module.SummaryWriter.add_scalar, module.SummaryWriter.close = recorded_add_scalar, recorded_close


def _recorded(log: Callable[..., Any], trace: Trace, kind: str) -> Callable[..., Any]:
    def recorded(self: Any, global_step: int, logs_dict: dict[str, Any]) -> Any:
        trace.row(global_step, kind, logs_dict)
        trace.in_logger = True
        try:
            return log(self, global_step, logs_dict)
        finally:
            trace.in_logger = False

    return recorded


def _break_emitter(module: ModuleType) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the emitter is broken on purpose by the lab")

    for method in ("__init__", "emit", "event"):
        setattr(module.Emitter, method, broken)


def _break_hooks(hooks: ModuleType) -> None:
    """Before anything is bound: ``SamplesGenerator.generate_samples`` is renamed in OpenRLHF, as a new version might.
    The policy's ``ppo_train`` gets a hook that raises, the engine's phase cannot begin, one group of signals fails."""
    from rlhfd_emitter import process, wrappers
    from rlhfd_emitter.signals import experience

    def broken(*args: object) -> Any:
        raise RuntimeError("this hook is broken on purpose by the lab")

    bind, begin = hooks.bind, process.Process.begin

    def bind_what_was_renamed(observed: Any, module: ModuleType) -> None:
        if module.__name__.endswith(".samples_generator"):
            _rename(module.SamplesGenerator, "generate_samples", "produce_samples")
        bind(observed, module)

    def begin_except_in_engines(self: Any, phase: str) -> Any:
        in_engine = self.role == "RolloutRayActor" and phase == "generation"
        return broken() if in_engine else begin(self, phase)

    hooks.bind, process.Process.begin = bind_what_was_renamed, begin_except_in_engines
    hooks.WRAPPERS["openrlhf.trainer.ray.ppo_actor"]["ActorPPOTrainer.ppo_train"] = wrappers.before(broken)
    experience.GROUPS["advantage"] = broken


def _rename(owner: Any, old: str, new: str) -> None:
    """Callers of the old name are served; whoever looks into the class finds the new one only."""
    setattr(owner, new, getattr(owner, old))
    delattr(owner, old)

    def attribute(self: Any, name: str) -> Any:
        if name == old:
            return getattr(self, new)
        raise AttributeError(name)

    owner.__getattr__ = attribute
