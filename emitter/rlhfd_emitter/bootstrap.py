"""What ``rlhfd.pth`` / ``rlhfd.start`` call at interpreter start: finds out which OpenRLHF process this is, if any."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

RAY_DRIVER_MODULES = frozenset({"openrlhf.cli.train_ppo_ray"})
RANK_MODULES = frozenset(f"openrlhf.cli.train_{name}" for name in ("sft", "rm", "dpo", "kto", "kd", "prm", "ppo"))
# Interpreter options whose value is the next argument.
_OPTIONS_WITH_VALUE = frozenset({"-W", "-X", "--check-hash-based-pycs"})

_started = False


def start() -> None:
    """Attach if this is a process of an OpenRLHF run; do nothing, fast, in every other process. Never raises."""
    global _started
    if _started or not os.environ.get("RLHFD_RUN") or os.environ.get("RLHFD_DISABLE", "") not in ("", "0"):
        return
    _started = True
    try:
        kind = process_kind(sys.orig_argv)
        if kind == "driver":
            from rlhfd_emitter import ray_env

            ray_env.install(os.environ)
        elif kind in ("ray_worker", "rank"):
            from rlhfd_emitter import hooks

            hooks.install()
    except Exception:  # noqa: BLE001 - runs in every interpreter of the environment; there is no logging yet
        return


def process_kind(argv: Sequence[str]) -> str | None:
    """``driver``, ``ray_worker``, ``rank`` or ``None`` for a process to leave alone (launchers, raylets, pip, ...).

    ``argv`` is ``sys.orig_argv``. The class of a Ray worker is not known yet at this point; vLLM's own child
    processes start through ``-c`` and are left alone.
    """
    program = main_program(argv)
    if program is None:
        return None
    if program.replace("\\", "/").rpartition("/")[2] == "default_worker.py":
        return "ray_worker"
    module = program
    if program.endswith(".py"):
        module = ".".join(program[: -len(".py")].replace("\\", "/").split("/")[-3:])
    if module in RAY_DRIVER_MODULES:
        return "driver"
    return "rank" if module in RANK_MODULES else None


def main_program(argv: Sequence[str]) -> str | None:
    """The module after ``-m`` or the script that the interpreter was told to run; ``None`` if neither."""
    arguments = iter(argv[1:])
    for argument in arguments:
        if argument == "-m":
            return next(arguments, None)
        if argument.startswith("-m"):
            return argument[2:]
        if argument == "-" or argument.startswith("-c"):
            return None
        if argument in _OPTIONS_WITH_VALUE:
            next(arguments, None)
        elif not argument.startswith("-"):
            return argument
    return None
