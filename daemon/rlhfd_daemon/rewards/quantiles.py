"""Quantiles of a stream in bounded memory, with a bound on their error (Greenwald and Khanna 2001, SIGMOD)."""

from __future__ import annotations

from bisect import bisect_right
from math import ceil, isfinite

__all__ = ["Quantiles"]


class Quantiles:
    """Takes finite values one by one. The rank of an answer is off by at most ``error`` times the count, whatever the
    order of the values; memory grows with the logarithm of the count only.

    An entry is ``[value, gap, slack]``: its least rank is the sum of the gaps up to it, its greatest that plus slack.
    """

    def __init__(self, error: float = 0.005) -> None:
        if not 0 < error < 0.5:
            raise ValueError(f"error must be between 0 and 0.5, got {error}")
        self.error = error
        self.count = 0
        self._entries: list[tuple[float, int, int]] = []
        self._waiting: list[float] = []
        self._batch = max(1, int(1 / (2 * error)))

    def add(self, value: float) -> None:
        """Take one value. :raises ValueError: it is not finite."""
        if not isfinite(value):
            raise ValueError(f"a quantile needs finite values, got {value}")
        self._waiting.append(value)
        self.count += 1
        if len(self._waiting) >= self._batch:
            self._settle()

    @property
    def size(self) -> int:
        """Entries kept."""
        return len(self._entries) + len(self._waiting)

    def quantile(self, share: float) -> float | None:
        """A value whose rank among all is within ``error * count`` of ``share * count``; ``None`` without values."""
        self._settle()
        if not self._entries:
            return None
        rank = min(max(1, ceil(share * self.count)), self.count)
        allowed = self.error * self.count
        least = 0
        answer = self._entries[0][0]
        for value, gap, slack in self._entries:
            least += gap
            if least + slack > rank + allowed:
                return answer
            answer = value
        return answer

    def share_up_to(self, value: float) -> float | None:
        """The share of values that are at most ``value``, within ``error``; ``None`` without values."""
        self._settle()
        if not self._entries:
            return None
        least, after = 0, self.count
        for entry, gap, slack in self._entries:
            if entry > value:
                after = least + gap + slack - 1
                break
            least += gap
        return (least + after) / 2 / self.count

    def _settle(self) -> None:
        """Merge what waits into the entries, then thin them out."""
        if not self._waiting:
            return
        self._waiting.sort()
        old, merged, at = self._entries, [], 0
        for value in self._waiting:
            upto = bisect_right(old, value, lo=at, key=lambda entry: entry[0])
            merged += old[at:upto]
            at = upto
            inside = merged and at < len(old)
            merged.append((value, 1, old[at][1] + old[at][2] - 1 if inside else 0))
        self._entries = self._thinned(merged + old[at:])
        self._waiting = []

    def _thinned(self, entries: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
        """Neighbours become one as long as its uncertainty stays below ``2 * error * count``; both ends stay."""
        allowed = int(2 * self.error * self.count)
        kept = [entries[-1]]
        for value, gap, slack in reversed(entries[1:-1]):
            after, after_gap, after_slack = kept[-1]
            if gap + after_gap + after_slack <= allowed:
                kept[-1] = (after, gap + after_gap, after_slack)
            else:
                kept.append((value, gap, slack))
        if len(entries) > 1:
            kept.append(entries[0])
        kept.reverse()
        return kept
