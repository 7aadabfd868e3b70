"""A driver in the lab's Ray that knows nothing of rlhfd: one actor busy half of the time, an idle one, a full store.

Called with the address of a head. Writes JSON lines: the actors' pids, then what Ray itself and the actor measured.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy
import ray  # type: ignore[import-not-found]
from ray._private.internal_api import get_memory_info_reply, get_state_from_address  # type: ignore[import-not-found]

CALLS, CALL_SECONDS, PAUSE_SECONDS = 6, 1.0, 1.0
OBJECTS, OBJECT_BYTES = 8, 40_000_000


class HalfBusy:
    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []

    def pid(self) -> int:
        return os.getpid()

    def compute_half(self) -> None:
        began = time.time()
        time.sleep(CALL_SECONDS)
        self.calls.append((began, time.time()))

    def measured(self) -> list[tuple[float, float]]:
        return self.calls


class NeverBusy:
    def pid(self) -> int:
        return os.getpid()


def main() -> None:
    address = sys.argv[1]
    ray.init(address=address, logging_level="error")
    half, never = ray.remote(HalfBusy).remote(), ray.remote(NeverBusy).remote()
    say({"half": ray.get(half.pid.remote()), "never": ray.get(never.pid.remote())})
    kept = [ray.put(numpy.ones(OBJECT_BYTES, dtype=numpy.uint8)) for _ in range(OBJECTS)]
    for _ in range(CALLS):
        ray.get(half.compute_half.remote())
        time.sleep(PAUSE_SECONDS)
    total, free = ray.cluster_resources(), ray.available_resources()
    store = get_memory_info_reply(get_state_from_address(address)).store_stats
    say({
        "calls": ray.get(half.measured.remote()),
        "capacity": total["object_store_memory"],
        "used": total["object_store_memory"] - free["object_store_memory"],
        "primary_copies": store.object_store_bytes_primary_copy,
        "spilled": store.spilled_bytes_total,
        "spilled_objects": store.spilled_objects_total,
        "restored_objects": store.restored_objects_total,
    })  # fmt: skip
    sys.stdin.read()
    del kept


def say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
