"""What is left of a memory or a disk, and when it will be used up if it goes on like this. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf

from rlhfd_daemon.analyzers.line import steady

__all__ = ["Course", "Outlook"]

SPACING_SECONDS = 4.0
MAX_POINTS = 128
WINDOW_SECONDS = 900.0
GAP_SECONDS = 900.0  # after a longer silence, or when the clock was set back by a minute, all is new
BACK_SECONDS = 60.0
CHECK_EVERY = 10  # values
RECORD_SECONDS = 3600.0
REACH = 3.0  # so many times as long as a fall has been seen, it may be thought to go on
NEW_GROUND = 0.9  # of the lowest before


@dataclass(frozen=True)
class Outlook:
    """It falls by ``rate`` per second, has done so for ``since_seconds``, and is 0 in ``seconds``."""

    seconds: float
    rate: float
    since_seconds: float


class Course:
    """The newest values of what is left, at least :data:`SPACING_SECONDS` apart. How low it was before them is known
    for an hour or two: what goes down and up all the time is no trend while it goes down where it has been before."""

    __slots__ = ("_count", "_lowest", "_lowest_before", "_points", "_record_since")

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=MAX_POINTS)
        self._count = 0
        self._lowest = self._lowest_before = inf
        self._record_since = 0.0

    def take(self, time: float, left: float) -> bool:
        """Take in one value: True if it is time to look."""
        points = self._points
        if points:
            since = time - points[-1][0]
            if since > GAP_SECONDS or since < -BACK_SECONDS:
                points.clear()
                self._lowest = self._lowest_before = inf
            elif since < SPACING_SECONDS:
                return False
        if len(points) == MAX_POINTS:
            self._remember(*points[0])
        points.append((time, left))
        self._count += 1
        return self._count % CHECK_EVERY == 0

    def _remember(self, time: float, left: float) -> None:
        """The lowest of the values that have left the window, for one to two :data:`RECORD_SECONDS`."""
        if time - self._record_since > RECORD_SECONDS:
            self._lowest_before, self._lowest, self._record_since = self._lowest, left, time
        self._lowest = min(self._lowest, left)

    def outlook(self, min_seconds: float, min_values: int) -> Outlook | None:
        """``None`` without a steady fall onto new ground, in all of the last :data:`WINDOW_SECONDS` or in the newest
        values that are enough."""
        now = self._points[-1][0]
        recent = [point for point in self._points if point[0] >= now - WINDOW_SECONDS]
        whole = recent if len(recent) >= min_values else list(self._points)[-min_values:]
        newest = [point for point in whole if point[0] >= now - min_seconds - SPACING_SECONDS]
        found = self._fall(whole, min_values) or self._fall(newest, min_values)
        if found is None or not min_seconds <= found.since_seconds or found.seconds > REACH * found.since_seconds:
            return None
        return found

    def _fall(self, points: list[tuple[float, float]], min_values: int) -> Outlook | None:
        """The outlook from ``points``, the newest."""
        if len(points) < min_values:
            return None
        now, begin = points[-1][0], points[0][0]
        line = steady([time - now for time, _ in points], [left for _, left in points])
        if line is None or line.slope >= 0:
            return None
        left = max(0.0, line.at_end)
        before = [value for time, value in self._points if time < begin]
        if left > NEW_GROUND * min([self._lowest, self._lowest_before, *before]):
            return None
        seconds = left / -line.slope
        return Outlook(seconds, -line.slope, now - begin) if seconds <= line.lasts else None

    def growth(self, min_seconds: float, min_values: int) -> float:
        """By how much per second it rises steadily; 0 if it does not."""
        points = list(self._points)
        if len(points) < min_values or points[-1][0] - points[0][0] < min_seconds:
            return 0.0
        line = steady([time - points[-1][0] for time, _ in points], [value for _, value in points])
        return 0.0 if line is None else max(0.0, line.slope)

    def evidence(self, count: int) -> tuple[tuple[int | None, float], ...]:
        """The newest values."""
        return tuple([(None, left) for _, left in self._points][-count:])
