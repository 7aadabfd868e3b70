"""The daemon's internal currency: one metric's value at one moment, or one thing that happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["Happening", "Sample", "SeriesKey"]

SeriesKey = tuple[str, str, str, "int | None", str]


class Sample(msgspec.Struct, frozen=True, gc=False):
    """``time`` in Unix seconds by the daemon's clock; ``step`` the training step, ``None`` where there is none.
    ``record_id`` is the frame-log record it came from."""

    run: str
    boot: str
    role: str
    rank: int | None
    step: int | None
    name: str
    value: float
    time: float
    record_id: int

    @property
    def series(self) -> SeriesKey:
        """What makes samples one time series."""
        return (self.run, self.boot, self.role, self.rank, self.name)


class Happening(msgspec.Struct, frozen=True):
    """An event frame as analyzers see it: ``name`` with its ``fields``; the rest as in :class:`Sample`."""

    run: str
    boot: str
    role: str
    rank: int | None
    step: int | None
    name: str
    fields: Mapping[str, Any]
    time: float
    record_id: int
