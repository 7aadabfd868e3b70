"""Alerts of one cause become one episode: which one each belongs to, and what of it people are told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rlhfd_alerts.alert import Alert, AlertState, Episode, News, Place, Transition, episode_id
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_daemon.confidence import Witness, confidence, witness
from rlhfd_daemon.kinship import Explains, Moment, Outline, Tie, causal_order, is_grave, onset, rank, tie

__all__ = ["Episodes"]

MAX_EPISODES = 512
MAX_MEMBERS = 24  # that an episode remembers and shows; it knows of all that fire
MAX_FIRING = 20_000


def _nothing(rule: str) -> Collection[str]:
    return ()


@dataclass
class _Known:
    """One episode as it is now. ``firing``: every alert, as it is placed. ``members``: the first of all alerts."""

    id: str
    run: tuple[str, str]
    opened: Moment
    opening: int = 0
    outline: Outline = field(default_factory=Outline)
    firing: dict[str, tuple[Finding, Place]] = field(default_factory=dict)
    grave: int = 0  # of those firing
    members: dict[str, Alert] = field(default_factory=dict)
    witnesses: dict[str, Witness] = field(default_factory=dict)  # of the members

    @property
    def told(self) -> Severity | None:
        """The severity that people know it with; ``None`` while there is nothing to tell."""
        return self.outline.severity if self.outline.is_open and is_grave(self.outline) else None


class Episodes:
    """Takes the transitions of a lifecycle and says which episode each belongs to. Pure: the same transitions give the
    same episodes and ids, also when it was restored from the stored alerts in between.

    An episode is open while an alert of it that is more than information fires; one of information alone, while any
    does. One that is over opens again if its condition, or a related one, is back soon after.
    """

    def __init__(self, explains: Explains = _nothing) -> None:
        self._explains = explains
        self._known: dict[str, _Known] = {}
        self._of_run: dict[tuple[str, str], dict[str, _Known]] = {}
        self._of_alert: dict[str, _Known] = {}
        self.unplaced_total = 0
        """Alerts for which there was no room in any episode; they are told one by one."""

    @property
    def open(self) -> tuple[Episode, ...]:
        """Those with something wrong now, in the order in which they opened first."""
        opened = sorted(self._known.values(), key=lambda known: (known.opened.time, known.id))
        return tuple(self._snapshot(known) for known in opened if known.outline.is_open)

    def of(self, fingerprint: str) -> str:
        """The id of the episode that a firing alert belongs to; empty if none."""
        known = self._of_alert.get(fingerprint)
        return "" if known is None else known.id

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Take up after a restart: replace what is known by what the stored ``alerts`` tell."""
        self._known, self._of_run, self._of_alert = {}, {}, {}
        for alert in alerts:
            finding, place = alert.finding, alert.place
            if not finding.episode or place is None:
                continue
            known = self._known.get(finding.episode) or self._add(finding.episode, finding, place)
            self._put(known, alert, place)
        while len(self._known) > MAX_EPISODES:
            self._forget(self._known.values())

    def follow(self, transitions: Sequence[Transition]) -> list[Transition]:
        """The ``transitions`` of one record, each with its episode as it stands after all of them."""
        before: dict[str, tuple[_Known, Severity | None, int]] = {}
        followed: list[tuple[Transition, _Known | None]] = []
        for transition in transitions:
            known = self._find(transition)
            if known is not None:
                before.setdefault(known.id, (known, known.told, known.opening))
                transition = replace(transition, alert=self._placed(known, transition))
            followed.append((transition, known))
        shown = {
            id_: replace(self._snapshot(known), news=tuple(_news(known, told, opening)))
            for id_, (known, told, opening) in before.items()
        }
        return [one if known is None else replace(one, episode=shown[known.id]) for one, known in followed]

    def _find(self, transition: Transition) -> _Known | None:
        """The episode that the alert is in or now comes into."""
        alert = transition.alert
        known = self._of_alert.get(alert.fingerprint)
        if known is None and transition.state is AlertState.FIRING:
            known = self._choose(alert.finding, transition.record_id)
            self.unplaced_total += known is None
        return known

    def _choose(self, finding: Finding, record_id: int) -> _Known | None:
        run = (finding.run, finding.boot)
        while len(self._of_alert) >= MAX_FIRING:
            if not self._forget(known for known in self._known.values() if known.run != run and known.firing):
                return None
        named = self._known.get(finding.episode)
        if named is not None and named.run == run and named.outline.is_open:
            return named
        best: tuple[Tie, float, str] | None = None
        for known in self._of_run.get(run, {}).values():
            members = (member.finding for member in known.members.values())
            found = tie(finding, known.outline, members, self._explains)
            key = (found, _latest(known), known.id)
            if found is not Tie.NONE and (best is None or key > best):
                best = key
        return self._new(finding, record_id) if best is None else self._known[best[2]]

    def _new(self, finding: Finding, record_id: int) -> _Known:
        if len(self._known) >= MAX_EPISODES:
            self._forget(self._known.values())
        place = Place(finding.step, finding.time, 0, finding.severity, finding.onset_step, finding.onset_time)
        return self._add(episode_id(finding, record_id), finding, place)

    def _add(self, id_: str, finding: Finding, place: Place) -> _Known:
        run = (finding.run, finding.boot)
        known = _Known(id_, run, Moment(place.opened_time, place.opened_step))
        self._known[id_] = self._of_run.setdefault(run, {})[id_] = known
        return known

    def _forget(self, candidates: Iterable[_Known]) -> bool:
        """Forget the one that is over or, if none is, heard of longest ago: alerts of runs that have ended with
        something wrong never end. Whether there was one."""
        known = min(candidates, key=lambda one: (bool(one.firing), _latest(one), one.id), default=None)
        if known is None:
            return False
        for fingerprint in known.firing:
            del self._of_alert[fingerprint]
        del self._known[known.id], self._of_run[known.run][known.id]
        if not self._of_run[known.run]:
            del self._of_run[known.run]
        return True

    def _placed(self, known: _Known, transition: Transition) -> Alert:
        """The transition's alert with its place in the episode, which now counts it."""
        alert, finding = transition.alert, replace(transition.alert.finding, episode=known.id)
        outline = known.outline
        if transition.state is AlertState.RESOLVED:
            place = known.firing[alert.fingerprint][1]
        else:
            earlier = known.members.get(alert.fingerprint)
            first = onset(finding) if earlier is None or earlier.place is None else _first(earlier.place)
            is_worse = finding.severity.rank > outline.severity.rank or not outline.is_open
            place = Place(
                opened_step=known.opened.step,
                opened_time=known.opened.time,
                opening=known.opening + (not outline.is_open),
                severity=finding.severity if is_worse else outline.severity,
                onset_step=first.step,
                onset_time=first.time,
            )
        placed = replace(alert, finding=finding, place=place)
        self._put(known, placed, place)
        return placed

    def _put(self, known: _Known, alert: Alert, place: Place) -> None:
        """Count a placed alert. What comes of several does not depend on their order."""
        finding, outline = alert.finding, known.outline
        self._take_out(known, alert.fingerprint)
        if alert.state is AlertState.FIRING:
            known.firing[alert.fingerprint] = (finding, place)
            self._of_alert[alert.fingerprint] = known
            if is_grave(finding):
                known.grave += 1
                outline.topics.add(finding)
        elif alert.ends_at is not None:
            ended = Moment(alert.ends_at, alert.last_step)
            outline.ended = ended if outline.ended is None else max(outline.ended, ended, key=_by_time)
        if place.opening > known.opening:
            known.opening, outline.severity = place.opening, place.severity
        elif place.opening == known.opening and place.severity.rank > outline.severity.rank:
            outline.severity = place.severity
        for span in (outline.slight, outline.grave) if is_grave(finding) else (outline.slight,):
            span.add(_first(place), Moment(finding.time, finding.step))
            span.add(onset(finding), Moment(finding.time, finding.step))
        outline.is_open = known.grave > 0 or (not is_grave(outline) and bool(known.firing))
        self._remember(known, alert)

    def _take_out(self, known: _Known, fingerprint: str) -> None:
        counted = known.firing.pop(fingerprint, None)
        self._of_alert.pop(fingerprint, None)
        if counted is not None and is_grave(counted[0]):
            known.grave -= 1
            known.outline.topics.remove(counted[0])

    def _remember(self, known: _Known, alert: Alert) -> None:
        known.members[alert.fingerprint] = alert
        known.witnesses[alert.fingerprint] = witness(alert.finding)
        if len(known.members) > MAX_MEMBERS:
            least = max(known.members, key=lambda one: _importance(known.members[one]))
            del known.members[least], known.witnesses[least]

    def _snapshot(self, known: _Known) -> Episode:
        outline, members = known.outline, known.members
        ended = None if outline.is_open else outline.ended
        return Episode(
            id=known.id,
            state=AlertState.FIRING if outline.is_open else AlertState.RESOLVED,
            severity=outline.severity,
            opening=known.opening,
            opened_step=known.opened.step,
            opened_time=known.opened.time,
            ended_step=None if ended is None else ended.step,
            ended_time=None if ended is None else ended.time,
            members=causal_order(members.values(), self._explains),
            more=len(known.firing) - len(known.firing.keys() & members.keys()),
            firing=len(known.firing),
            confidence=confidence(known.witnesses.values()),
        )


def _news(known: _Known, told: Severity | None, opening: int) -> Iterator[News]:
    """What has changed since the severity that was told and the number of the opening were these."""
    now = known.told
    if told is None and now is None and known.opening > opening and is_grave(known.outline):
        yield from (News.OPENED, News.RESOLVED)  # within one record
    elif told is None and now is not None:
        yield News.OPENED
    elif told is not None and now is None:
        yield News.RESOLVED
    elif told is not None and now is not None and now.rank > told.rank:
        yield News.RAISED


def _first(place: Place) -> Moment:
    return Moment(place.onset_time, place.onset_step)


def _by_time(moment: Moment) -> tuple[float, int]:
    return moment.time, -1 if moment.step is None else moment.step


def _latest(known: _Known) -> float:
    """When something of it last began or ended."""
    ended = known.outline.ended
    return max(known.outline.slight.found_time or 0.0, 0.0 if ended is None else ended.time)


def _importance(alert: Alert) -> tuple[bool, float, int, str]:
    """The last in this order is forgotten first."""
    began = alert.finding.onset_time if alert.place is None else alert.place.onset_time
    return not is_grave(alert.finding), began, rank(alert.finding), alert.fingerprint
