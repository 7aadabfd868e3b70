"""Frames as a foreign emitter would make them: plain maps, packed with msgpack, with any field changed."""

from __future__ import annotations

from typing import Any

import msgpack

from rlhfd_daemon.frame import Frame, decode

ABSENT = object()


def fields_of(seq: Any = 1, **changes: Any) -> dict[str, Any]:
    """A good metrics frame as a map; ``ABSENT`` leaves a key out."""
    fields: dict[str, Any] = {
        "v": 1, "run": "r", "boot": "b", "role": "trainer", "rank": 0, "stream": "s1", "pid": 7, "seq": seq,
        "time_ns": 1_000, "mono_ns": 2_000, "kind": "metrics", "step": seq, "metrics": {"loss": 1.0},
    }  # fmt: skip
    if changes.get("kind", "metrics") != "metrics":
        del fields["metrics"]
    fields.update(changes)
    return {key: value for key, value in fields.items() if value is not ABSENT}


def packed(seq: Any = 1, **changes: Any) -> bytes:
    """The bytes of :func:`fields_of`."""
    return bytes(msgpack.packb(fields_of(seq, **changes)))


def frame(seq: int = 1, **changes: Any) -> Frame:
    """The same as the daemon sees it."""
    return decode(packed(seq, **changes))
