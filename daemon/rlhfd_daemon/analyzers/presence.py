"""Which metrics a process sends with every step, and which of them stay away or no longer change. Pure."""

from __future__ import annotations

from collections import deque

__all__ = ["Key", "Process", "Together"]

DORMANT = -1  # the turn of a metric that has not come since its process began or resumed
BEFORE = -(1 << 63)  # all steps
RESUMED = 8  # so many steps back are another start; fewer are frames that came late
MEMORY = 256  # turns; what was before counts less
REGULAR = 0.9  # share of the steps: with fewer, a metric comes as it likes
VARYING = 0.9  # share of the values that differ from the one before


class Key:
    """One metric of one process. ``turn`` is the process's turn at which it came last, ``same`` how many values before
    the last one were equal to it. ``longest`` and ``longest_before`` are the longest absences that were none, in turns,
    within the present and the previous :data:`MEMORY`."""

    __slots__ = (
        "changes", "frozen", "gone", "longest", "longest_before", "may_freeze", "missed", "name", "odd", "same", "seen",
        "since", "since_time", "turn", "value",
    )  # fmt: skip

    def __init__(self, name: str, may_freeze: bool) -> None:
        self.name = name
        self.may_freeze = may_freeze
        self.turn = DORMANT
        self.seen = self.missed = 0
        self.longest = self.longest_before = 0
        self.changes = self.same = self.odd = 0
        self.value = float("nan")
        self.since, self.since_time = 0, 0.0  # since when it has this value
        self.gone: Together | None = None
        self.frozen: Together | None = None

    def is_regular(self, history: int) -> bool:
        """Whether it comes with nearly every step."""
        return self.seen >= history and self.seen >= REGULAR * (self.seen + self.missed)

    def was_varying(self, history: int) -> bool:
        """Whether nearly every value before the last equal ones was a new one. A whole number may be a cap, a count
        or a floor, and stays where it is for good reason."""
        values = self.seen - self.odd - self.same
        return values >= history and self.changes >= VARYING * values and self.value % 1 != 0

    def age(self) -> None:
        """Let what was long ago count less."""
        self.longest_before, self.longest = self.longest, 0
        values = self.seen - self.odd - self.same
        if values >= MEMORY:
            self.seen -= values // 2 + self.odd
            self.changes //= 2
            self.missed //= 2
            self.odd = 0


class Together:
    """Metrics that left, or stopped changing, at one time. ``waiting``: how many still do; ``value``: the first one's
    last, which it has had from one step to ``now`` (``evidence``); ``whole``: these are all there were."""

    __slots__ = ("evidence", "names", "onset_step", "onset_time", "value", "waiting", "whole")

    def __init__(self, keys: list[Key], onset_step: int, onset_time: float, now: int, whole: bool) -> None:
        self.names = tuple(key.name for key in keys)
        self.value = keys[0].value
        self.waiting = len(keys)
        self.onset_step, self.onset_time = onset_step, onset_time
        self.evidence = ((keys[0].since, self.value), (now, self.value))
        self.whole = whole


class Process:
    """One process: its turns are the steps that it reported on, in the order in which they came."""

    __slots__ = ("recent", "step", "suspects", "turn", "watched")

    def __init__(self) -> None:
        self.watched: list[Key] = []
        self.turn = 0
        self.step = BEFORE
        self.suspects = False
        self.recent: deque[tuple[int, float]] = deque(maxlen=64)  # step and time of the last turns

    def watch(self, key: Key) -> Key:
        self.watched.append(key)
        return key

    def is_next(self, step: int, time: float) -> bool:
        """Take note of a sample of another step than the last one: True if that is a new turn."""
        if step <= self.step:
            return False
        self.step = step
        self.turn += 1
        self.recent.append((step, time))
        if self.turn % MEMORY == 0:
            for key in self.watched:
                key.age()
        return True

    def is_resumed(self, step: int) -> bool:
        return step < self.step - RESUMED

    def resume(self) -> None:
        """Go on from an earlier step: what comes from now on may be other metrics."""
        self.step = BEFORE
        self.suspects = False
        self.recent.clear()
        for key in self.watched:
            key.turn, key.same, key.gone, key.frozen = DORMANT, 0, None, None

    def missing(self, least: int, history: int) -> Together | None:
        """The metrics that have been absent for ``least`` whole turns, if that is not their way. To be called in the
        first moment of a turn."""
        bound = self.turn - least
        silent = [key for key in self.watched if 0 <= key.turn < bound and key.gone is None and key.is_regular(history)]
        absent = self.turn - 1
        due = {key.turn for key in silent if absent - key.turn >= max(least, 2 * key.longest, 2 * key.longest_before)}
        if not due:
            return None
        lost, last = [key for key in silent if key.turn in due], min(due)
        if not any(key.turn >= absent and key.seen > self.turn - last for key in self.watched):
            for key in lost:  # only newcomers are left: the process does something else now
                key.turn = DORMANT
            return None
        step, time = self.recent[max(-len(self.recent), last - self.turn)]
        found = Together(lost, step, time, now=step, whole=False)
        for key in lost:
            key.gone = found
        return found

    def frozen(self, least: int, history: int) -> Together | None:
        """The metrics that have had one value at ``least`` turns in a row and never did before."""
        self.suspects = False
        still = [
            key for key in self.watched
            if key.same >= least - 3 and key.frozen is None and key.may_freeze and key.was_varying(history)
        ]  # fmt: skip
        if not any(key.same >= least - 1 for key in still):
            return None
        moving = [key for key in self.watched if key.same < least - 3 and key.may_freeze and key.was_varying(history)]
        step, time = min((key.since, key.since_time) for key in still)
        found = Together(still, step, time, now=self.recent[-1][0], whole=not moving)
        for key in still:
            key.frozen = found
        return found

    def gone(self) -> list[Together]:
        """What is missing at the moment."""
        return list({id(key.gone): key.gone for key in self.watched if key.gone is not None}.values())

    def still(self) -> list[Together]:
        """What is frozen at the moment."""
        return list({id(key.frozen): key.frozen for key in self.watched if key.frozen is not None}.values())
