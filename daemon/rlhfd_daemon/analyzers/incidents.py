"""Things that happened and are alerts by themselves: a stalled phase, a dead actor, a lost GPU. One row each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.analyzers.incident_table import INCIDENTS, Incident
from rlhfd_daemon.config import IncidentsConfig
from rlhfd_daemon.runs import DAEMON_ROLE
from rlhfd_daemon.sample import Happening, Sample

__all__ = ["Incidents"]

MAX_ACTIVE = 4096
_Key = tuple[str, str, str, tuple[str, ...]]


@dataclass(frozen=True)
class _Active:
    finding: Finding
    until: float | None


class Incidents:
    """Begins with the row's ``begin`` event and ends with its ``end`` event of the same subject, or for a row without
    one ``clear_after_seconds`` after the last time it happened. What is over when its run ends stays as it is."""

    def __init__(self, config: IncidentsConfig) -> None:
        self._config = config
        self._begins = {row.begin: row for row in INCIDENTS}
        self._ends: dict[str, list[Incident]] = {}
        for row in INCIDENTS:
            for end in row.ends:
                self._ends.setdefault(end, []).append(row)
        self._active: dict[_Key, _Active] = {}

    def watch(self, first: Sample) -> None:
        return None

    def observe(self, sample: Sample) -> Iterable[Finding]:
        return ()

    def happened(self, event: Happening) -> Iterable[Finding]:
        if event.name not in self._begins and event.name not in self._ends:  # nearly all: phases
            return ()
        return self._happened(event)

    def _happened(self, event: Happening) -> Iterator[Finding]:
        row = self._begins.get(event.name)
        if row is not None and _is_for(row, event) and (not row.only or event.fields.get(row.only) is True):
            yield from self._begin(row, event)
        for ended in self._ends.get(event.name, ()):
            if _is_for(ended, event):
                yield from self._end(ended, event)

    def tick(self, now: float) -> Iterable[Finding]:
        over = [key for key, one in self._active.items() if one.until is not None and one.until <= now]
        for key in over:
            yield replace(self._active.pop(key).finding, active=False, time=now)

    def forget(self, run: str, boot: str) -> None:
        self._active = {key: one for key, one in self._active.items() if key[:2] != (run, boot)}

    def _begin(self, row: Incident, event: Happening) -> Iterator[Finding]:
        key = _key(row, event)
        if key not in self._active and len(self._active) >= MAX_ACTIVE:
            return
        until = None if row.ends else event.time + self._config.clear_after_seconds
        known = self._active.get(key)
        finding = _finding(row, event) if known is None else known.finding
        self._active[key] = _Active(finding, until)
        yield finding

    def _end(self, row: Incident, event: Happening) -> Iterator[Finding]:
        known = self._active.pop(_key(row, event), None)
        if known is not None:
            yield replace(known.finding, active=False, time=event.time, step=event.step)


def _is_for(row: Incident, event: Happening) -> bool:
    return row.roles is None or event.role in row.roles


def _key(row: Incident, event: Happening) -> _Key:
    return (event.run, event.boot, row.rule, tuple(str(event.fields.get(name)) for name in row.key))


def _finding(row: Incident, event: Happening) -> Finding:
    named = (row.key if event.role == DAEMON_ROLE else ("role", *row.key)) + row.labels
    values = {"role": event.role, **event.fields}
    words = _Words(values)
    value = event.fields.get(row.value)
    critical = bool(event.fields.get("critical")) or row.severity is Severity.CRITICAL
    return Finding(
        run=event.run,
        boot=event.boot,
        rule=row.rule,
        family=row.family,
        metric=row.metric.format_map(words),
        severity=Severity.CRITICAL if critical else row.severity,
        active=True,
        step=event.step,
        time=event.time,
        value=float(value) if isinstance(value, (int, float)) else None,
        baseline=None,
        onset_step=event.step,
        onset_time=event.time,
        summary=row.summary.format_map(words),
        remedy=row.remedy,
        episode=str(event.fields.get("episode", "")) if event.role == DAEMON_ROLE else "",
        labels=tuple((name, str(values[name])) for name in dict.fromkeys(named) if values.get(name) is not None),
    )


class _Words(dict[str, object]):
    """Fields for a template: what is missing reads ``?``, numbers have at most three digits behind the point."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        super().__init__({name: _word(value) for name, value in fields.items()})

    def __missing__(self, name: str) -> str:
        return "?"


def _word(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(str(_word(item)) for item in value)
    if isinstance(value, dict):
        return " ".join(str(_word(item)) for item in value.values())
    return value
