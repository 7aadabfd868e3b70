"""One step of a log as every reader gives it, and how a mapping of whatever a logger wrote becomes one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TypeVar

__all__ = ["Damaged", "Report", "Row", "RowMaker", "number"]

_T = TypeVar("_T")
MAX_DEPTH = 4
MAX_STEP = 1 << 62
# In lower case. The weak ones count only in a log that never has one of the others: wandb's own counter goes on at
# every call of `log`, also where the training step does not.
STEP_KEYS = (
    "step", "global_step", "train/global_step", "eval/global_step", "training/global_step", "train/step",
    "trainer/global_step", "training_step",
)  # fmt: skip
WEAK_STEP_KEYS = ("_step", "iteration", "iter")
TIME_KEYS = ("time", "timestamp", "_timestamp", "wall_time", "wall time", "created_at", "datetime", "date", "ts")
# Counters of progress; as metrics they would say nothing.
EPOCH_KEYS = ("epoch", "train/epoch", "eval/epoch", "training/epoch")
PROGRESS = frozenset({*STEP_KEYS, *WEAK_STEP_KEYS, *TIME_KEYS, *EPOCH_KEYS})
NOT_FINITE = frozenset({"nan", "inf", "-inf", "infinity", "-infinity", "+infinity", "+inf"})


@dataclass(frozen=True)
class Row:
    """The ``metrics`` of one step, by the log's own names. ``step``, ``time`` (Unix seconds) and ``epoch`` are ``None``
    where the log has none."""

    step: int | None
    time: float | None
    metrics: Mapping[str, float]
    epoch: float | None = None


@dataclass(frozen=True)
class Damaged:
    """A place of a log that cannot be read and was passed over."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


Report = Callable[[Damaged], None]


class RowMaker:
    """Makes the rows of one log; remembers whether the log has a proper step."""

    def __init__(self) -> None:
        self._has_step = False

    def make(self, values: Mapping[str, object]) -> Row | None:
        """The row of ``values``, ``None`` if no number is among them. Text, ``None``, truth values and lists are left
        out; a mapping inside counts with ``/`` between the names, one called ``metrics`` without its own."""
        flat = dict(_flat(values, "", 0))
        by_name = {name.lower(): value for name, value in flat.items()}
        metrics = {
            name: found
            for name, value in flat.items()
            if not name.startswith("_") and name.lower() not in PROGRESS and (found := number(value)) is not None
        }
        if not metrics:
            return None
        epoch = _first(by_name, EPOCH_KEYS, number)
        return Row(self._step(by_name), _first(by_name, TIME_KEYS, seconds), metrics, epoch)

    def _step(self, values: Mapping[str, object]) -> int | None:
        found = _first(values, STEP_KEYS, _whole)
        if found is not None:
            self._has_step = True
        return found if found is not None or self._has_step else _first(values, WEAK_STEP_KEYS, _whole)


def number(value: object) -> float | None:
    """``value`` as a float, ``None`` if it is no number. Texts are none, but for NaN and infinity."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            return None
    if isinstance(value, str) and value.strip().lower() in NOT_FINITE:
        return float(value)
    return None


def seconds(value: object) -> float | None:
    """Unix seconds of a time stamp: a number (also of milli-, micro- or nanoseconds), or ISO 8601, UTC if it does not
    say."""
    if isinstance(value, str):
        try:
            return _plausible(float(value))
        except ValueError:
            return _iso(value)
    found = number(value)
    return None if found is None else _plausible(found)


def _plausible(value: float) -> float | None:
    if not math.isfinite(value) or value < 0:
        return None
    for _ in range(3):
        if value < 1e11:  # seconds reach that in the year 5138, milliseconds had it in 1973
            return value
        value /= 1000
    return value if value < 1e11 else None


def _iso(text: str) -> float | None:
    try:
        # Python 3.10 does not know the Z.
        found = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        return _plausible((found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp())
    except (ValueError, OverflowError):
        return None


def _whole(value: object) -> int | None:
    try:
        found = float(value) if isinstance(value, str) else number(value)
    except ValueError:
        return None
    if found is None or not math.isfinite(found) or found != int(found) or abs(found) > MAX_STEP:
        return None
    return int(found)


def _first(values: Mapping[str, object], keys: tuple[str, ...], read: Callable[[object], _T | None]) -> _T | None:
    return next((found for key in keys if key in values and (found := read(values[key])) is not None), None)


def _flat(values: Mapping[str, object], prefix: str, depth: int) -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if not isinstance(value, Mapping):
            yield name, value
        elif depth < MAX_DEPTH:
            yield from _flat(value, "" if name == "metrics" else f"{name}/", depth + 1)
