"""Carries rlhfd's environment variables from the driver into the workers of its Ray job."""

from __future__ import annotations

import importlib
import os
from collections.abc import MutableMapping
from typing import Any

HOOK = "rlhfd_emitter.ray_env.runtime_env_hook"
HOOK_VARIABLE = "RAY_RUNTIME_ENV_HOOK"
NEXT_HOOK_VARIABLE = "RLHFD_NEXT_RUNTIME_ENV_HOOK"
PREFIX = "RLHFD_"


def install(environ: MutableMapping[str, str]) -> None:
    """Have ``ray.init`` call :func:`runtime_env_hook`; a hook the user has set is called before ours.

    Called in the driver's own interpreter, where this module has just been imported: set from outside, the
    variable would end a driver whose environment lacks rlhfd.
    """
    earlier = environ.get(HOOK_VARIABLE)
    if earlier == HOOK:
        return
    if earlier:
        environ[NEXT_HOOK_VARIABLE] = earlier
    environ[HOOK_VARIABLE] = HOOK


def runtime_env_hook(runtime_env: dict[str, Any] | None) -> dict[str, Any]:
    """Ray calls this inside ``ray.init`` (``ray/_private/worker.py``). Adds the ``RLHFD_*`` variables, no more.

    Not Ray's ``worker_process_setup_hook``: a worker that cannot import its setup hook is killed, and with it
    the training. In the workers ``rlhfd.pth`` does the rest; a node without rlhfd is merely not observed.
    """
    earlier = os.environ.get(NEXT_HOOK_VARIABLE)
    if earlier:
        module, _, name = earlier.rpartition(".")
        runtime_env = getattr(importlib.import_module(module), name)(runtime_env)  # the user's hook may raise
    merged = dict(runtime_env or {})
    variables = dict(merged.get("env_vars") or {})
    for key, value in os.environ.items():
        if key.startswith(PREFIX) and key != NEXT_HOOK_VARIABLE:
            variables.setdefault(key, value)
    merged["env_vars"] = variables
    return merged
