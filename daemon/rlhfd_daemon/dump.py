"""Recorded frames as JSON, for people and for `jq`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from rlhfd_alerts.canonical import canonical_json, spell
from rlhfd_daemon.frame import FrameError, decode
from rlhfd_daemon.recording import read
from rlhfd_daemon.segment import Damage


def dump(log: Path) -> Iterator[bytes]:
    """One JSON object a record: ``record``, ``received_ns``, ``uid``, ``pid`` and ``frame``, or ``damaged``.

    Values that JSON has no number for are the strings ``NaN``, ``Infinity`` and ``-Infinity``.
    """
    for record in read(log):
        if isinstance(record, Damage):
            yield canonical_json({"damaged": msgspec.to_builtins(record)})
            continue
        line: dict[str, object] = {
            "record": record.id,
            "received_ns": record.received_ns,
            "uid": record.uid,
            "pid": record.pid,
        }
        try:
            line["frame"] = msgspec.to_builtins(decode(record.payload))
        except FrameError as error:
            line["rejected"] = {"reason": error.reason, "detail": str(error)}
        yield canonical_json(spelled(line))


def spelled(value: object) -> object:
    """``value`` with every non-finite number in it written out."""
    if isinstance(value, float):
        return spell(value)
    if isinstance(value, dict):
        return {key: spelled(item) for key, item in value.items()}
    return [spelled(item) for item in value] if isinstance(value, list) else value
