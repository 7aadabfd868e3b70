"""The daemon's one internal currency: one metric's value at one moment, from whatever source."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from rlhfd_daemon.frame import Frame


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """``time`` in Unix seconds by the daemon's clock; ``step`` the training step, ``None`` where there is none.
    ``record_id`` is the frame-log record it came from."""

    run: str
    boot: str
    role: str
    rank: int | None
    step: int | None
    time: float
    name: str
    value: float
    record_id: int

    @property
    def series(self) -> tuple[str, str, str, int | None, str]:
        """What makes samples one time series."""
        return (self.run, self.boot, self.role, self.rank, self.name)


def samples(frame: Frame, received_ns: int, record_id: int) -> Iterator[Sample]:
    """The samples of a metrics frame, in the frame's order; none for other frames."""
    for name, value in frame.metrics.items():
        yield Sample(
            run=frame.run,
            boot=frame.boot,
            role=frame.role,
            rank=frame.rank,
            step=frame.step,
            time=received_ns / 1e9,
            name=name,
            value=value,
            record_id=record_id,
        )
