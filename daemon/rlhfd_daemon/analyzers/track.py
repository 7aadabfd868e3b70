"""One series against its own past: does it leave its course, for long enough and far enough to matter?"""

from __future__ import annotations

from array import array
from math import asinh

from rlhfd_daemon.analyzers.baseline import Line, fit, middle, rise
from rlhfd_daemon.analyzers.changes import STILL, Change, Drift
from rlhfd_daemon.analyzers.profiles import Profile
from rlhfd_daemon.analyzers.scale import Covered, Scale

__all__ = ["Track"]

WINDOW = 40  # values that the line is laid through
REFIT = 12  # values from one line to the next
PROLONGATIONS, NEAR = 2, 0.4  # times, and how far the mean of the new values may lie off, in standard deviations
REACH = 12.0  # values that the line is followed beyond its end; from there on the course is level
ALLOWANCE, LIMIT, CLIP = 1.25, 8.0, 4.0  # of the cumulated sums, in standard deviations
CERTAIN = 3.0  # times the limit
SUSPECT = 3.0  # a sum above which values do not enter the window
ABSORBED = 24  # suspect values after which a change too small to matter is the new course
ACCEPTED = 50  # values after which a change that was alerted is the new course
NOISE_SIGMAS = 6.0  # wide is the noise of a series that stays where it is
CREEP, CREEP_SIGMAS, MAX_CREEP_PATIENCE = 2, 4.0, 2.0  # lines ago; how far from that course; others wait longer
CALM, CALM_SIGMAS = 5, 2.0
SPIKE_SIGMAS, SPIKE_FACTOR, SPIKES, SPIKES_WITHIN = 5.0, 5.0, 3, 30
SPREAD_ALLOWANCE, SPREAD_LIMIT = 2.0, 12.0
FEW = 8  # a scale estimated from so many values may be half of what it should be
NOWHERE = (float("inf"), float("-inf"))
OTHER_UNIT, ABSURD = 100.0, 1e9  # times what the window covers, its scale: from there on, the range is of no use
HUGE = 1e100  # whatever is beyond counts as this, so that no arithmetic overflows


class Track:
    """The cumulated sums (Page 1954) of how far each value lies from the course, in standard deviations, cut at
    ``CLIP`` so that no single value decides; ``ALLOWANCE`` of each is forgiven. Suspect values do not enter the window,
    so that a change cannot hide itself. Memory is constant, and nothing depends on how long the series is."""

    __slots__ = (
        "_calm", "_count", "_covered", "_down", "_down_from", "_edges", "_edges_of", "_fitted", "_high_edge", "_kind",
        "_line", "_lines", "_low_edge", "_profile", "_prolongations", "_scale", "_seen", "_side", "_spikes",
        "_spread_down", "_spread_up", "_suspects", "_up", "_up_from", "_values",
    )  # fmt: skip

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._seen, self._kind = 0, ""
        self._spikes: list[int] = []
        self._scale, self._covered = Scale(profile), Covered()
        self._begin([])

    def _begin(self, values: list[float]) -> None:
        """Go on with ``values`` as the window."""
        self._values = array("d", values)
        self._suspects: list[float] = []
        self._up = self._down = self._spread_up = self._spread_down = 0.0
        self._calm = self._side = self._fitted = self._prolongations = 0
        self._up_from = self._down_from = self._seen  # the value at which the sum left 0
        self._lines: list[Line] = []
        self._count = len(values)
        self._low_edge, self._high_edge = NOWHERE
        self._line = self._laid() if values else Line(0.0, 0.0, 0.0)
        self._edges, self._edges_of = NOWHERE, Line(0.0, 0.0, 0.0)

    def take(self, value: float) -> Change | None:
        """What this finite value begins or ends."""
        if self._low_edge < value < self._high_edge:  # so near to its course that nothing follows from it
            self._seen += 1
            self._values.append(asinh(value / self._scale.unit) if self._profile.log else value)
            self._fitted += 1
            return None if self._fitted < REFIT else self._refit()
        return self._weigh(value)

    def _weigh(self, value: float) -> Change | None:
        self._seen += 1
        if not -HUGE < value < HUGE:
            value = HUGE if value > 0 else -HUGE
        if self._count < self._profile.after:
            self._learn(value)
            return None
        y = self._scale.forth(value)
        level, slope, scale = self._line
        suspects = self._suspects
        ahead = self._fitted + len(suspects) + 1
        off, rise = (y - level) / scale, slope * (ahead if ahead < REACH else REACH) / scale
        if rise * off > 0:  # on the side to which it was moving: that much was to be expected
            off = off - rise if off * off > rise * rise else 0.0
        z = CLIP if off > CLIP else -CLIP if off < -CLIP else off
        if self._up == 0:
            self._up_from = self._seen
        if self._down == 0:
            self._down_from = self._seen
        up = self._up + z - ALLOWANCE
        down = self._down - z - ALLOWANCE
        self._up = up = up if up > 0 else 0.0
        self._down = down = down if down > 0 else 0.0
        self._low_edge, self._high_edge = NOWHERE
        if up < SUSPECT and down < SUSPECT and not self._kind and off < SPIKE_SIGMAS:
            if suspects:
                self._values.extend(suspects)
                self._suspects = []
            self._values.append(y if z == off else y - (off - z) * scale)
            self._fitted += 1
            if self._fitted >= REFIT:
                return self._refit()
            if up == 0 and down == 0:
                self._rest()
            return None
        return self._suspect(value, y, off, z)

    def _rest(self) -> None:
        """No sum is above 0: values within the allowance will leave it at that, and need no arithmetic."""
        line = self._line
        if self._edges_of is not line:
            low, high = line.level - ALLOWANCE * line.scale, line.level + ALLOWANCE * line.scale
            self._edges, self._edges_of = (self._scale.back(low), self._scale.back(high)), line
        self._low_edge, self._high_edge = self._edges

    def is_due(self) -> bool:
        """Whether :meth:`drift` is worth asking: something is going on, or the course itself has moved."""
        then = self._lines[0] if self._lines else self._line
        return self._low_edge > self._high_edge or abs(self._line.level - then.level) > then.scale

    def drift(self, is_up: bool) -> Drift:
        """How far the last values have moved to one side since the course of ``CREEP`` lines ago at most."""
        if not self._lines and not self._kind:
            return STILL
        then = self._lines[0] if self._lines else self._line
        ahead = len(self._lines) * REFIT + self._fitted + len(self._suspects)
        recent = middle([*self._values[-5:], *self._suspects[-5:]][-5:])
        expected = then.level + (then.slope * ahead if (then.slope > 0) == is_up else 0.0)
        sigmas = (recent - expected) / then.scale
        recent, expected = self._scale.back(recent), self._scale.back(expected)
        return Drift(sigmas if is_up else -sigmas, recent, expected, self._width())

    def _width(self) -> float:
        """The range of the levels so far, or that of the noise where it is wider."""
        return max(self._covered.width(), NOISE_SIGMAS * self._line.scale)

    def _learn(self, value: float) -> None:
        self._values.append(value)
        self._count += 1
        if self._count < self._profile.after:
            return
        self._scale.learn(self._values)
        self._covered.anew(self._values)
        self._begin([self._scale.forth(one) for one in self._values])

    def _refit(self) -> Change | None:
        self._fitted = 0
        self._lines.append(self._line)
        self._line = self._prolonged() or self._laid()
        found = self._crept() if len(self._lines) >= CREEP and self._profile.patience <= MAX_CREEP_PATIENCE else None
        self._low_edge, self._high_edge = NOWHERE
        if found is None and self._up == 0 and self._down == 0:
            self._rest()
        return found

    def _prolonged(self) -> Line | None:
        """The same line again, if the new values lie about it: cheaper than another, a few times."""
        level, slope, scale = self._line
        off = sum(self._values[-REFIT:]) / REFIT - level - slope * (REFIT + 1) / 2
        if self._prolongations >= PROLONGATIONS or abs(off) > NEAR * scale:
            self._prolongations = 0
            return None
        self._prolongations += 1
        return Line(level + slope * REFIT, slope, scale)

    def _crept(self) -> Change | None:
        """Against the course of ``CREEP`` lines ago: has it changed so slowly that it took the course along?"""
        now, then = self._line, self._lines.pop(0)
        ahead = REFIT * CREEP
        if abs(now.level - then.level) < (CREEP_SIGMAS - 1) * then.scale:
            return None
        recent = self._scale.back(middle(self._values[-5:]))
        for is_up in (True, False):
            move = then.slope * ahead if (then.slope > 0) == is_up else 0.0
            off = (self._scale.forth(recent) - then.level - move) / then.scale
            expected = self._scale.back(then.level + move)
            matters = self._profile.matters(is_up, recent, expected, self._width())
            if matters and (off if is_up else -off) > CREEP_SIGMAS:
                self._line = Line(then.level + move, 0.0, then.scale)
                self._lines.clear()
                return self._start(self._change("trend_change", True, is_up, since=ahead // 2, recent=recent))
        self._line = now
        return None

    def _start(self, change: Change) -> Change:
        self._kind, self._side, self._calm = change.kind, 1 if change.is_up else -1, 0
        return change

    def _laid(self) -> Line:
        del self._values[:-WINDOW]
        line = fit(self._values.tolist())
        if self._scale.is_lost(line.level):
            self._values = array("d", self._scale.anew(self._values))
            self._lines.clear()
            line = fit(self._values.tolist())
        if self._profile.measure == "range":
            self._covered.add(self._scale.back(line.level))
        scale = max(line.scale * (1 + FEW / len(self._values)), self._scale.least(line.level))
        if self._covered.width() > ABSURD * scale:
            self._covered.anew(map(self._scale.back, self._values))
        return Line(line.level, line.slope, scale)

    def _suspect(self, value: float, y: float, off: float, z: float) -> Change | None:
        suspects = self._suspects
        suspects.append(y)
        if self._kind:
            if self._kind == "spikes":
                self._spiked(value, off)
            return self._watch(off)
        found = self._spiked(value, off) or self._left() or self._spreads(z)
        if found is not None:
            return self._start(found)
        if len(suspects) >= ABSORBED * self._profile.patience:
            self._begin([*self._values, *suspects][-WINDOW:])
        elif self._up < SUSPECT and self._down < SUSPECT:  # one spike: too little for the sums
            self._values.extend([*suspects[:-1], y - (off - z) * self._line.scale])
            self._suspects = []
        return None

    def _watch(self, off: float) -> Change | None:
        """An alert is on: is the series back on its course, has it found a new one, or gone to the other side?"""
        self._calm = self._calm + 1 if -CALM_SIGMAS < off < CALM_SIGMAS else 0
        if self._kind == "spikes":
            over = self._seen - self._spikes[-1] >= SPIKES_WITHIN
            if not over and len(self._suspects) < ACCEPTED:
                return None
            if not over and sum(self._seen - at < SPIKES_WITHIN for at in self._spikes) <= SPIKES_WITHIN // 2:
                del self._suspects[0]
                return None
        else:
            over = self._calm >= CALM
            if not over and len(self._suspects) < ACCEPTED:
                return self._turned()
        change = self._change(self._kind, False, self._side > 0, new_level=not over)
        self._kind, self._spikes = "", []
        self._begin((self._suspects if not over else [*self._values, *self._suspects[-CALM:]])[-WINDOW:])
        if not over and self._covered.width() > OTHER_UNIT * (max(self._values) - min(self._values)):
            self._covered.anew(map(self._scale.back, self._values))
        return change

    def _turned(self) -> Change | None:
        """Another change in place of the one that is on: to the other side, or where only the spread had changed."""
        if self._kind != "spread_change":  # one side is known, and its sum would hide that of the other
            self._up, self._down = (0.0, self._down) if self._side > 0 else (self._up, 0.0)
        found = self._left()
        return None if found is None else self._start(found)

    def _spiked(self, value: float, off: float) -> Change | None:
        if not self._profile.spikes or off < SPIKE_SIGMAS or value < SPIKE_FACTOR * self._expected(True):
            return None
        self._spikes = [at for at in self._spikes if self._seen - at < SPIKES_WITHIN] + [self._seen]
        if len(self._spikes) < SPIKES:
            return None
        return self._change("spikes", True, True, since=self._seen - self._spikes[0])

    def _left(self) -> Change | None:
        limit = LIMIT * self._profile.patience
        if self._up <= limit and self._down <= limit:
            return None
        is_up = self._up > limit
        recent, expected = self._scale.back(middle(self._suspects[-3:])), self._expected(is_up)
        certainty = (self._up if is_up else self._down) / limit
        if not self._profile.matters(is_up, recent, expected, self._width(), certainty):
            self._up, self._down = min(self._up, CERTAIN * limit), min(self._down, CERTAIN * limit)
            return None
        since = self._seen - (self._up_from if is_up else self._down_from)
        kind = "trend_change" if self._is_trend(is_up, since) else "level_change"
        return self._change(kind, True, is_up, since=since)

    def _is_trend(self, is_up: bool, since: int) -> bool:
        """Whether the suspect values go on moving rather than having jumped once."""
        moved = self._suspects[-since - 1 :]
        further = rise(moved) if len(moved) >= 6 else 0.0
        return (further if is_up else -further) > 2 * self._line.scale

    def _spreads(self, z: float) -> Change | None:
        """Values far from the course on either side; those on one side alone are a change of level."""
        self._spread_up = max(0.0, self._spread_up + (z if z > 0 else 0.0) - SPREAD_ALLOWANCE / 2)
        self._spread_down = max(0.0, self._spread_down + (-z if z < 0 else 0.0) - SPREAD_ALLOWANCE / 2)
        if min(self._spread_up, self._spread_down) <= SPREAD_LIMIT / 2:
            return None
        self._spread_up = self._spread_down = 0.0
        return self._change("spread_change", True, True)

    def _expected(self, is_up: bool) -> float:
        level, slope, _ = self._line
        move = slope * min(self._fitted + len(self._suspects), REACH)
        return self._scale.back(level + (move if (move > 0) == is_up else 0.0))

    def _change(self, kind: str, is_active: bool, is_up: bool, *, since: int | None = None, new_level: bool = False,
                recent: float | None = None) -> Change:  # fmt: skip
        expected = self._expected(is_up)
        scale = abs(self._scale.back(self._line.level + self._line.scale) - self._scale.back(self._line.level))
        now = self._scale.back(middle(self._suspects[-3:])) if recent is None else recent
        since = len(self._suspects) - 1 if since is None else since
        return Change(kind, is_active, is_up, expected, scale, now, since, new_level)
