"""What follows from frames without being in one: durations of phases, skew between ranks, how unequal their work is,
ratios of losses."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from rlhfd_daemon.frame import Frame
from rlhfd_daemon.runs import DAEMON_ROLE

__all__ = ["BETWEEN_RANKS", "FULLEST", "RATIOS", "SHARES", "Derivation", "Derived", "derived_names", "ratios"]

MAX_ROUNDS = 16  # of one role's phase that wait for their last rank
MAX_STEPS = 64  # of one role's work that wait for it; after an outage each rank sends many at once
MAX_KINDS = 4096


class Derived(NamedTuple):
    """A value on its way to become a sample."""

    role: str
    rank: int | None
    step: int | None
    name: str
    value: float


# name -> (numerator, denominator), all of one frame of the trainer's logs.
RATIOS = {
    "rlhfd/ratio_of/kl_policy_loss": ("train/kl", "train/policy_loss"),
    "rlhfd/ratio_of/value_policy_loss": ("train/critic_loss", "train/policy_loss"),
}


# name -> phase: how long it took against all others of the step, so that a busy machine, which slows all, is none.
SHARES = {
    f"rlhfd/ratio_of/{phase}_rest": f"train/timing/{phase}"
    for phase in ("generation", "make_experience", "ppo_train", "broadcast")
}
STEP_SECONDS = "train/timing/step_total"

# what each rank did in a step -> the greatest of all ranks against their mean, of that step.
BETWEEN_RANKS = {
    f"rlhfd/{model}/{work}": f"rlhfd/{model}/rank_{name}_imbalance"
    for model in ("policy", "critic", "model")
    for work, name in (("sequence_tokens", "tokens"), ("positions", "positions"))
}

FULLEST = {f"rlhfd/{model}/positions": f"rlhfd/{model}/fullest_rank" for model in ("policy", "critic", "model")}


def ratios(frame: Frame) -> Iterator[Derived]:
    """The ratios of :data:`RATIOS` whose both sides are in ``frame``, against the absolute value of the second, and
    those of :data:`SHARES`."""
    metrics = frame.metrics
    if "train/policy_loss" not in metrics and STEP_SECONDS not in metrics:
        return
    for name, (above, below) in RATIOS.items():
        numerator, denominator = metrics.get(above), metrics.get(below)
        if numerator is not None and denominator:
            yield Derived(frame.role, frame.rank, frame.step, name, numerator / abs(denominator))
    total = metrics.get(STEP_SECONDS)
    for name, phase in SHARES.items() if total is not None else ():
        seconds = metrics.get(phase)
        if seconds is not None and total is not None and 0 < seconds < total:
            yield Derived(frame.role, frame.rank, frame.step, name, seconds / (total - seconds))


def derived_names(names: Collection[str]) -> set[str]:
    """Which of ``names`` this module would derive from others of them once more."""
    known = set(names)
    found = {name for name, sides in RATIOS.items() if known.issuperset(sides)}
    return found | {name for name, phase in SHARES.items() if phase in known and STEP_SECONDS in known}


@dataclass
class _Round:
    """One occurrence of a phase over all ranks of a role: when each rank began (ns), and how long it took (s)."""

    step: int | None
    begun: dict[int, int] = field(default_factory=dict)
    took: dict[int, float] = field(default_factory=dict)


@dataclass
class _Kind:
    """A role's phase. Ranks are matched by counting: the n-th of one rank belongs to the n-th of another."""

    counts: dict[int, int] = field(default_factory=dict)
    rounds: OrderedDict[int, _Round] = field(default_factory=OrderedDict)


class Derivation:
    """``phase/<phase>/seconds`` of every phase that ended; from roles with several ranks, who was last and by how much.

    ``arrival_skew_seconds`` is between the first and the last rank to begin, by the node's monotonic clock: in a
    collective everybody waits for ``last_rank``. ``duration_skew_seconds`` is between the shortest and the longest
    (``slowest_rank``), which shows where no collective makes all end together. :data:`BETWEEN_RANKS` are known once all
    ranks have sent their own value of a step.
    """

    def __init__(self) -> None:
        self._sizes: dict[tuple[str, str, str], int] = {}
        self._kinds: dict[tuple[str, str, str, str], _Kind] = {}
        self._works: dict[tuple[str, str, str, str], OrderedDict[int, dict[int, float]]] = {}  # by step, by rank

    def observe(self, frame: Frame) -> list[Derived]:
        """What an event frame adds."""
        if frame.event == "phase_begin":
            self._begin(frame)
        elif frame.event == "phase_end":
            return self._end(frame)
        elif frame.event == "process_start":
            self._start((frame.run, frame.boot, frame.role), frame.fields.get("world_size"))
        elif frame.event == "run_context" and frame.role == DAEMON_ROLE:
            for stream in frame.fields.get("streams", ()):
                role = (frame.run, frame.boot, stream["role"])
                if role not in self._sizes:
                    self._start(role, stream["start"].get("world_size"))
        return []

    def compare(self, frame: Frame) -> list[Derived]:
        """What the metrics of a rank add, if it is the last one with them in its step."""
        role = (frame.run, frame.boot, frame.role)
        size = self._sizes.get(role)
        if size is None or frame.rank is None or frame.step is None:
            return []
        found: list[Derived] = []
        for name in BETWEEN_RANKS.keys() & frame.metrics.keys():
            key = (*role, name)
            ranks = self._work(key, frame.step)
            ranks[frame.rank] = frame.metrics[name]
            if len(ranks) == size:
                found += _imbalance(frame, name, self._works[key].pop(frame.step))
        return sorted(found, key=lambda one: one.name)

    def _work(self, key: tuple[str, str, str, str], step: int) -> dict[int, float]:
        steps = self._works.setdefault(key, OrderedDict())
        ranks = steps.setdefault(step, {})
        while len(steps) > MAX_STEPS:
            steps.popitem(last=False)
        return ranks

    def _start(self, role: tuple[str, str, str], size: object) -> None:
        """A rank of ``role`` is new: the counts of the others would not match its own."""
        if isinstance(size, int) and size > 1 and (role in self._sizes or len(self._sizes) < MAX_KINDS):
            self._sizes[role] = size
            self._kinds = {key: kind for key, kind in self._kinds.items() if key[:3] != role}
            self._works = {key: steps for key, steps in self._works.items() if key[:3] != role}

    def forget(self, run: str, boot: str) -> None:
        """Drop what is known of one launch of a run."""
        self._sizes = {key: size for key, size in self._sizes.items() if key[:2] != (run, boot)}
        self._kinds = {key: kind for key, kind in self._kinds.items() if key[:2] != (run, boot)}
        self._works = {key: steps for key, steps in self._works.items() if key[:2] != (run, boot)}

    def _begin(self, frame: Frame) -> None:
        role = (frame.run, frame.boot, frame.role)
        if frame.rank is None or role not in self._sizes:
            return
        key = (*role, str(frame.fields.get("phase")))
        if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
            return
        kind = self._kinds.setdefault(key, _Kind())
        number = kind.counts[frame.rank] = kind.counts.get(frame.rank, 0) + 1
        kind.rounds.setdefault(number, _Round(frame.step)).begun[frame.rank] = frame.mono_ns
        while len(kind.rounds) > MAX_ROUNDS:
            kind.rounds.popitem(last=False)

    def _end(self, frame: Frame) -> list[Derived]:
        phase, seconds = str(frame.fields.get("phase")), frame.fields.get("seconds")
        if not isinstance(seconds, (int, float)):
            return []
        took = Derived(frame.role, frame.rank, frame.step, f"phase/{phase}/seconds", float(seconds))
        return [took, *self._skews(frame, phase, float(seconds))]

    def _skews(self, frame: Frame, phase: str, seconds: float) -> Iterator[Derived]:
        kind = self._kinds.get((frame.run, frame.boot, frame.role, phase))
        if kind is None or frame.rank is None:
            return
        number = kind.counts.get(frame.rank, 0)
        current = kind.rounds.get(number)
        if current is None:
            return
        current.took[frame.rank] = seconds
        if len(current.took) == self._sizes.get((frame.run, frame.boot, frame.role)):
            del kind.rounds[number]
            for name, value in _skew(current):
                yield Derived(frame.role, None, frame.step, f"phase/{phase}/{name}", value)


def _skew(done: _Round) -> Iterator[tuple[str, float]]:
    last = max(done.begun, key=lambda rank: done.begun[rank])
    slowest = max(done.took, key=lambda rank: done.took[rank])
    yield "arrival_skew_seconds", (done.begun[last] - min(done.begun.values())) / 1e9
    yield "last_rank", float(last)
    yield "duration_skew_seconds", done.took[slowest] - min(done.took.values())
    yield "slowest_rank", float(slowest)


def _imbalance(frame: Frame, name: str, ranks: dict[int, float]) -> Iterator[Derived]:
    """1 where all ranks have the same, 2 where one has twice the mean; and which rank has the most."""
    total = sum(ranks.values())
    if 0 < total < math.inf:
        fullest = min(ranks, key=lambda rank: (-ranks[rank], rank))
        yield Derived(frame.role, None, frame.step, BETWEEN_RANKS[name], ranks[fullest] * len(ranks) / total)
        if name in FULLEST:
            yield Derived(frame.role, None, frame.step, FULLEST[name], float(fullest))
