"""When a rule that is true at single looks counts as true: k of the last n."""

from __future__ import annotations

from typing import Literal

__all__ = ["Hold"]


class Hold:
    """Begins with the k-th true look of the last ``n``, ends when none of the last ``keep`` was true.

    ``bits`` are the last looks, newest in the lowest bit; 0 if and only if nothing is going on.
    """

    __slots__ = ("_k", "_keep", "_n", "_trues", "active", "bits")

    def __init__(self, k: int, n: int, keep: int = 0) -> None:
        self._k = k
        self._n = (1 << n) - 1
        self._keep = (1 << max(n, keep)) - 1
        self.clear()

    def clear(self) -> None:
        self.bits = 0
        self.active = False
        self._trues: list[tuple[int | None, float]] = []

    def look(self, is_true: bool, step: int | None, time: float) -> Literal["begins", "ends"] | None:
        """Take note of one more look."""
        self.bits = (self.bits << 1 | is_true) & self._keep
        if self.active:
            self.active = self.bits != 0
            return None if self.active else "ends"
        if not is_true:
            return None
        count = bin(self.bits & self._n).count("1")
        self._trues = [*self._trues, (step, time)][-count:]
        self.active = count >= self._k
        return "begins" if self.active else None

    @property
    def onset(self) -> tuple[int | None, float]:
        """Step and time of the first of the true looks that it began with."""
        return self._trues[0]
