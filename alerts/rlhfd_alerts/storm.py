"""Storms: a target is told so many messages an hour of one run, then one summary of what is held back. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass, field

from rlhfd_alerts.alert import Alert, AlertState, Episode, fingerprint
from rlhfd_alerts.finding import Finding, Severity

__all__ = ["RULE", "Storm", "StormLimits", "storm_from_json", "storm_to_json"]

RULE = "alert_storm"
WINDOW_SECONDS = 3600.0
GATHER_SECONDS = 10.0  # before the first summary, so that it counts more than the first of them
MAX_COUNTED = 64  # rules that are counted by name
_NAMED = 5
_SET_BACK_SECONDS = 60.0  # what lies further ahead was counted before the clock was set back
_REMEDY = (
    "rlhfd alerts list shows all that fires. Something changed for many metrics at once: look at what fired first. "
    "Silence what is known (rlhfd silence add), or raise alerts.storm.max_messages."
)


@dataclass(frozen=True, slots=True)
class StormLimits:
    """``max_messages`` per run, target and hour; 0: no limit. Summaries are updated every ``update_seconds``."""

    max_messages: int = 30
    update_seconds: float = 4 * 3600.0


@dataclass
class Storm:
    """What one target was told of one run within the last hour and, while ``began`` is not ``None``, what was held
    back. Times are unix seconds."""

    target: str
    run: str
    boot: str = ""
    sent: list[float] = field(default_factory=list)
    rules: dict[str, float] = field(default_factory=dict)  # critical ones that were told, and when
    began: float | None = None
    last: float = 0.0
    told_at: float | None = None
    counts: dict[str, int] = field(default_factory=dict)  # episodes held back, by rule
    severities: dict[str, int] = field(default_factory=dict)
    told_total: int = 0
    number: int = 0

    @property
    def total(self) -> int:
        """How many episodes were held back."""
        return sum(self.severities.values())

    def admits(self, rules: Set[str], limits: StormLimits, now: float) -> bool:
        """Whether one more message may go out; ``rules`` are the critical ones it would tell of."""
        self._prune(now)
        return limits.max_messages <= 0 or len(self.sent) < limits.max_messages or bool(rules - self.rules.keys())

    def room_at(self, limits: StormLimits) -> float:
        """When the next message may go out, if not now."""
        return self.sent[-limits.max_messages] + WINDOW_SECONDS

    def note_sent(self, rules: Iterable[str], now: float) -> None:
        """A message went out."""
        self.sent.append(now)
        self.rules.update(dict.fromkeys(rules, now))

    def hold_back(self, episode: Episode, now: float) -> None:
        """An episode that would have been told is not."""
        self.began, self.last = now if self.began is None else self.began, now
        rule = episode.cause.finding.rule
        rule = rule if rule in self.counts or len(self.counts) < MAX_COUNTED else "others"
        self.boot = episode.cause.finding.boot
        self.counts[rule] = self.counts.get(rule, 0) + 1
        self.severities[episode.severity.value] = self.severities.get(episode.severity.value, 0) + 1

    def due(self, limits: StormLimits) -> float | None:
        """When there is something to tell of the storm itself; ``None`` if there is no storm."""
        if self.began is None:
            return None
        if self.told_at is None:
            return self.began + GATHER_SECONDS
        over = max(self.last + WINDOW_SECONDS, self.told_at)
        return min(over, self.told_at + limits.update_seconds) if self.total > self.told_total else over

    def is_over(self, now: float) -> bool:
        """Whether nothing was held back for an hour."""
        return self.told_at is not None and now >= self.last + WINDOW_SECONDS

    def is_idle(self, now: float) -> bool:
        """Whether there is nothing left to remember."""
        self._prune(now)
        return self.began is None and not self.sent

    def summary(self, state: AlertState, now: float) -> Episode:
        """The storm as an episode of one alert, in ``state``; to be told now."""
        began = self.began or now
        finding = self._finding(began, now, state)
        is_over = state is AlertState.RESOLVED
        alert = Alert(
            fingerprint=fingerprint(finding),
            finding=finding,
            starts_at=began,
            last_value=float(self.total),
            last_step=None,
            ends_at=now if is_over else None,
            state=state,
        )
        self.told_at, self.told_total, self.number = now, self.total, self.number + 1
        identity = hashlib.sha256(f"{self.target}\0{self.run}\0{began!r}".encode("utf-8", "replace")).hexdigest()[:16]
        ended = now if is_over else None
        episode = Episode(
            "st_" + identity, state, finding.severity, 1, None, began, None, ended, (alert,), 0, int(not is_over), 1.0
        )
        if is_over:
            self.began, self.told_at, self.counts, self.severities, self.told_total = None, None, {}, {}, 0
        return episode

    def _finding(self, began: float, now: float, state: AlertState) -> Finding:
        most = sorted(self.counts.items(), key=lambda one: (-one[1], one[0]))[:_NAMED]
        rules = ", ".join(f"{rule} {count}" for rule, count in most) + (", ..." if len(self.counts) > _NAMED else "")
        grades = ", ".join(
            f"{self.severities[one.value]} {one.value}" for one in _GRADES if one.value in self.severities
        )
        what = "are held back" if state is AlertState.FIRING else "were held back; it is over"
        return Finding(
            run=self.run,
            boot=self.boot,
            rule=RULE,
            family="system",
            metric="alerts",
            severity=Severity.CRITICAL if Severity.CRITICAL.value in self.severities else Severity.WARNING,
            active=state is AlertState.FIRING,
            step=None,
            time=now,
            value=float(self.total),
            baseline=None,
            onset_step=None,
            onset_time=began,
            summary=f"alert storm: {self.total} more episodes ({grades}) {what}, by rule: {rules}",
            remedy=_REMEDY,
            labels=(("target", self.target),),
        )

    def _prune(self, now: float) -> None:
        self.sent = [moment for moment in self.sent if -_SET_BACK_SECONDS < now - moment < WINDOW_SECONDS]
        if self.began is None:
            self.rules = {rule: at for rule, at in self.rules.items() if now - at < WINDOW_SECONDS}


_GRADES = (Severity.CRITICAL, Severity.WARNING)


def storm_to_json(storm: Storm) -> str:
    """Return ``storm`` as it is stored."""
    return json.dumps(asdict(storm), sort_keys=True, separators=(",", ":"))


def storm_from_json(text: str) -> Storm:
    """Return the storm that :func:`storm_to_json` wrote. Raises ``ValueError`` if it did not write this."""
    try:
        fields: Mapping[str, object] = json.loads(text)
        return Storm(**fields)  # type: ignore[arg-type]
    except (AttributeError, TypeError) as error:
        raise ValueError(f"not a storm: {error}") from error
