"""How each metric went: mean, spread, extremes and slope of every epoch, or of every hundred steps. No findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil, isfinite
from operator import add

from rlhfd_daemon.analyzers.moments import Axis, Direction, Moments
from rlhfd_daemon.analyzers.series import MAX_SERIES
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.runs import DAEMON_ROLE
from rlhfd_daemon.sample import Sample

__all__ = ["WHOLE", "Trend", "Trends"]

EPOCHS = ("epoch", "train/epoch", "training/epoch")
WINDOW_STEPS = 100
MAX_WINDOWS = 32  # of a process; when there are more, every two become one
MAX_WAITING = 128  # frames between two sums
WHOLE = "whole run"

_Process = tuple[str, str, str, "int | None"]


@dataclass(frozen=True)
class Trend:
    """One metric of one process in one ``window``, such as ``epoch 2``, ``steps 101-200`` or :data:`WHOLE`. ``count``
    is of finite values, ``std`` their standard deviation, ``slope`` the change per step, and ``direction`` whether that
    is more than chance."""

    run: str
    metric: str
    role: str
    rank: int | None
    window: str
    first_step: int
    last_step: int
    count: int
    mean: float
    std: float
    min: float
    max: float
    slope: float
    direction: Direction


class _Series:
    """The values since the last sum, and the sums: (number of the window, moments), oldest first."""

    __slots__ = ("steps", "sums", "values")

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: list[float] = []
        self.sums: list[tuple[int, Moments]] = []

    def add_up(self, number: int, axis: Axis | None) -> Axis | None:
        """Sum up what waits; ``axis`` may be that of another series, and the one used comes back."""
        if self.values:
            if axis is None or axis.steps != self.steps:
                axis = Axis(self.steps)
            found = Moments.of(axis, self.values)
            self.steps, self.values = [], []
            if found is not None:
                self._append(number, found)
        return axis

    def merge(self) -> None:
        """Make one of every two windows."""
        sums, self.sums = self.sums, []
        for number, moments in sums:
            self._append(number // 2, moments)

    def _append(self, number: int, moments: Moments) -> None:
        if self.sums and self.sums[-1][0] == number:
            self.sums[-1] = (number, self.sums[-1][1] + moments)
        else:
            self.sums.append((number, moments))


class _Windows:
    """The windows of one process: ``unit`` is of epochs, or of hundreds of steps from the first one on."""

    def __init__(self, first: int, epochs: bool) -> None:
        self.first = first
        self.epochs = epochs
        self.unit = 1
        self.number: int | None = None
        self.series: dict[str, _Series] = {}
        self._waiting = 0

    def enter(self, step: int, epoch: float | None) -> None:
        """The next values are of ``step``."""
        if not self.epochs:
            number = (step - self.first) // WINDOW_STEPS // self.unit
        elif epoch is not None:
            number = ceil(epoch) // self.unit
        else:
            number = self.number or 0
        self._waiting += 1
        if number != self.number or self._waiting >= MAX_WAITING:
            self.add_up()
            self.number = number
            if max((len(one.sums) for one in self.series.values()), default=0) >= MAX_WINDOWS:
                self._merge()

    def add_up(self) -> None:
        """Sum up what waits."""
        self._waiting = 0
        axis: Axis | None = None
        if self.number is not None:
            for one in self.series.values():
                axis = one.add_up(self.number, axis)

    def name(self, number: int, moments: Moments) -> str:
        if not self.epochs:
            return f"steps {moments.first_step}-{moments.last_step}"
        first = number * self.unit
        return f"epoch {first}" if self.unit == 1 else f"epochs {first}-{first + self.unit - 1}"

    def _merge(self) -> None:
        self.unit *= 2
        self.number = None if self.number is None else self.number // 2
        for one in self.series.values():
            one.merge()


class Trends:
    """A sink. An epoch is known where the metrics say it, or whoever reads a log sets ``epoch`` before each frame."""

    def __init__(self) -> None:
        self.epoch: float | None = None
        self.refused = 0
        self._processes: dict[_Process, _Windows] = {}
        self._count = 0

    def take(self, frame: Frame, samples: Sequence[Sample]) -> None:
        step = frame.step
        if step is None or not samples or frame.event is not None or frame.role == DAEMON_ROLE:
            return
        epoch = self._epoch_of(frame)
        key = (frame.run, frame.boot, frame.role, frame.rank)
        windows = self._processes.get(key)
        if windows is None:
            windows = self._processes[key] = _Windows(step, epochs=epoch is not None)
        windows.enter(step, epoch)
        known = windows.series
        for sample in samples:
            name = sample.name
            series = known[name] if name in known else self._meet(known, name)
            series.steps.append(step)
            series.values.append(sample.value)

    def forget(self, run: str, boot: str) -> None:
        """Drop what is known of one launch of a run."""
        for key in [key for key in self._processes if key[:2] == (run, boot)]:
            self._count -= len(self._processes.pop(key).series)

    @property
    def launches(self) -> tuple[tuple[str, str], ...]:
        """The runs, each with its boot, in the order in which they came."""
        return tuple(dict.fromkeys(key[:2] for key in self._processes))

    def table(self, run: str, boot: str) -> list[Trend]:
        """All windows of all metrics of one launch of a run; of those with several windows the whole run, too."""
        return [
            trend for key, windows in self._processes.items() if key[:2] == (run, boot) for trend in _rows(key, windows)
        ]

    def _meet(self, known: dict[str, _Series], name: str) -> _Series:
        if self._count >= MAX_SERIES:
            self.refused += 1
            return _Series()
        self._count += 1
        return known.setdefault(name, _Series())

    def _epoch_of(self, frame: Frame) -> float | None:
        said = next((frame.metrics[name] for name in EPOCHS if name in frame.metrics), self.epoch)
        return said if said is not None and isfinite(said) else None


def _rows(key: _Process, windows: _Windows) -> Iterator[Trend]:
    windows.add_up()
    for name, series in windows.series.items():
        if name in EPOCHS:
            continue
        for number, moments in series.sums:
            yield _trend(key, name, windows.name(number, moments), moments)
        if len(series.sums) > 1:
            yield _trend(key, name, WHOLE, reduce(add, (moments for _, moments in series.sums)))


def _trend(key: _Process, name: str, window: str, of: Moments) -> Trend:
    run, _, role, rank = key
    return Trend(
        run=run,
        metric=name,
        role=role,
        rank=rank,
        window=window,
        first_step=of.first_step,
        last_step=of.last_step,
        count=of.count,
        mean=of.mean,
        std=of.std,
        min=of.low,
        max=of.high,
        slope=of.slope,
        direction=of.direction,
    )
