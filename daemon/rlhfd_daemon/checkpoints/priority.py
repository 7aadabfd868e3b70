"""Makes the process that reads checkpoints the last one to get the processor and the disk."""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["step_back"]

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_WHO_PROCESS, _CLASS_SHIFT, _IDLE = 1, 13, 3  # linux/ioprio.h


def step_back(nice: int = 19) -> bool:
    """Lowers the processor's and, where the scheduler knows it, the disk's priority of this process to the least.

    Returns whether both were done; what the system does not know or allow is left as it was.
    """
    done = True
    try:
        os.nice(nice)
    except OSError:
        done = False
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        return False
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    arguments = (number, _WHO_PROCESS, 0, _IDLE << _CLASS_SHIFT)
    return call(*(ctypes.c_long(one) for one in arguments)) == 0 and done
