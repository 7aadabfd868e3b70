"""Per-series state of an analyzer, bounded in number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from rlhfd_daemon.sample import Sample

S = TypeVar("S")
Series = tuple[str, str, str, "int | None", str]
MAX_SERIES = 20_000
EVIDENCE = 16


class SeriesTable(Generic[S]):
    """The state of every series; past ``limit`` series new ones are not analysed, and counted in ``refused``."""

    def __init__(self, make: Callable[[], S], limit: int = MAX_SERIES) -> None:
        self._make = make
        self._limit = limit
        self._states: dict[Series, S] = {}
        self.refused = 0

    def get(self, sample: Sample) -> S | None:
        """The state of the sample's series, made at its first sample."""
        key = sample.series
        state = self._states.get(key)
        if state is None:
            if len(self._states) >= self._limit:
                self.refused += 1
                return None
            state = self._states[key] = self._make()
        return state

    def forget(self, run: str, boot: str) -> None:
        """Drop the series of one launch of a run."""
        self._states = {key: state for key, state in self._states.items() if key[:2] != (run, boot)}


class Evidence:
    """The last values of a series. ``add(sample)`` is the deque's own method: it is called for every sample."""

    __slots__ = ("_samples", "add")

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=EVIDENCE)
        self.add = self._samples.append

    def values(self) -> tuple[tuple[int | None, float], ...]:
        """As (step, value), oldest first."""
        return tuple((sample.step, sample.value) for sample in self._samples)

    def step_of(self, ago: int) -> int | None:
        """The step of the value ``ago`` values before the last one; further back than is known, by counting."""
        if ago < len(self._samples):
            return self._samples[-1 - ago].step
        last = self._samples[-1].step
        return None if last is None else last - ago


def labels(sample: Sample) -> tuple[tuple[str, str], ...]:
    """Who measured it."""
    rank = () if sample.rank is None else (("rank", str(sample.rank)),)
    return (("role", sample.role), *rank)


def at_step(step: int | None) -> str:
    """``at step 61``, or nothing to say where there is no step."""
    return "now" if step is None else f"at step {step}"
