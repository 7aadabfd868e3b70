"""What a group says when its time has come, unless a storm is on; and the summaries of storms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum

from rlhfd_alerts.alert import AlertState, Episode, Notification, Transition
from rlhfd_alerts.ledger import Ledger
from rlhfd_alerts.places import Group, Place
from rlhfd_alerts.storm import StormLimits
from rlhfd_alerts.subjects import Subject, as_firing
from rlhfd_alerts.telling import Outgoing, merged, tell

__all__ = ["Flush", "Unsaid"]

_Causes = Mapping[str, Sequence[Transition]]
_Act = Callable[[float, float], "list[Outgoing]"]


class Unsaid(Enum):
    """What a target does not know of an episode."""

    OPENED = "opened"
    RAISED = "raised"
    ACTED = "acted"  # something was done about it
    PASSED = "passed"  # it opened, and is over already
    OVER = "over"


class Flush:
    """Makes messages of what is unsaid, and takes note of what is said with them."""

    def __init__(
        self,
        ledger: Ledger,
        limits: StormLimits,
        quiet: frozenset[str],
        news: Callable[[Group, Place, Subject, float], Unsaid | None],
    ) -> None:
        self.quiet = quiet
        self._ledger = ledger
        self._limits = limits
        self._news = news

    def timer(self, group: Group) -> _Act:
        """Tell what is unsaid, later than at the record that decided it."""
        return lambda moment, now: self.flush(group, moment, {})

    def flush(self, group: Group, now: float, causes: _Causes) -> list[Outgoing]:
        """Tell what is unsaid in ``group``; ``causes`` are the transitions of the record at hand, by subject."""
        group.due = None
        self._ledger.touch("group", group.id)
        begun, ended = [], []
        for subject in self._ledger.members(group):
            news = self._news(group, self._place(group, subject), subject, now)
            if news is Unsaid.OVER:
                ended.append(subject)
            elif news is not None:
                begun.append(subject)
        told = self._begin(group, begun, ended, now, causes)
        return told + self._end(group, ended + [one for one in begun if not one.is_alive], now, causes, bool(told))

    def repeat(self, group: Group, again: Sequence[Subject], now: float) -> list[Outgoing]:
        """Tell that ``again`` still fire, if there is room for it."""
        group.told_at = now
        self._ledger.touch("group", group.id)
        if not self._has_room(group, frozenset(), now):
            return []
        group.repeats += 1
        # What has not been delivered yet says the same: an outage must not end with a pile of repeats.
        return [replace(one, owed=False) for one in self._say(group, again, AlertState.FIRING, now, {})]

    def storm_timer(self, key: tuple[str, str]) -> _Act:
        """Tell of a storm: that it is on, how far it has gone, that it is over."""

        def act(moment: float, now: float) -> list[Outgoing]:
            storm = self._ledger.storms[key]
            self._ledger.touch("storm", *key)
            state = AlertState.RESOLVED if storm.is_over(moment) else AlertState.FIRING
            episode = storm.summary(state, moment)
            owed = True if self._is_quiet(key[0], state) else None
            return [Outgoing(key[0], tell(episode, state, moment, 0, storm.number), owed)]

        return act

    def _begin(
        self, group: Group, begun: Sequence[Subject], ended: Sequence[Subject], now: float, causes: _Causes
    ) -> list[Outgoing]:
        if not begun:
            return []
        rules = frozenset(rule for one in begun for rule in one.critical_rules)
        has_room = self._has_room(group, rules, now)
        told: list[Outgoing] = []
        for one in begun:
            place = self._place(group, one)
            place.told, place.opening, place.acted = one.episode.severity, one.episode.opening, one.acted
            self._ledger.touch("place", group.target, one.id)
            if not has_room:
                self._ledger.storm(group.target, group.run).hold_back(one.episode, now)
        if has_room:
            group.repeats = 0
            about = [*self._shown(group, begun), *ended]
            told = self._say(group, about, AlertState.FIRING, now, causes, rules, begun)
        elif group.told_at is None:
            group.told_at = now  # by the summary; from here on it is repeated like any other
        return told

    def _end(
        self, group: Group, ended: Sequence[Subject], now: float, causes: _Causes, has_spoken: bool
    ) -> list[Outgoing]:
        if not ended:
            return []
        others = {one.id for one in ended}
        alive = [one for one in self._shown(group, ()) if one.id not in others]
        is_quiet = group.target in self.quiet
        is_told = group.is_firing and not (alive and (has_spoken or is_quiet))
        if is_told and not (has_spoken or is_quiet or self._has_room(group, frozenset(), now)):
            storm = self._ledger.storm(group.target, group.run)
            group.due = storm.room_at(self._limits)
            return []
        for one in ended:
            place = self._place(group, one)
            place.told, place.opening = None, max(place.opening, one.episode.opening)
            self._ledger.touch("place", group.target, one.id)
        state = AlertState.FIRING if alive else AlertState.RESOLVED
        return self._say(group, [*alive, *ended], state, now, causes, frozenset(), ended) if is_told else []

    def _shown(self, group: Group, begun: Sequence[Subject]) -> list[Subject]:
        """What a message that something fires is about: all that the target knows to be firing."""
        new = {one.id for one in begun}
        members = self._ledger.members(group)
        return [one for one in members if one.id in new or (one.is_alive and self._place(group, one).told is not None)]

    def _say(
        self,
        group: Group,
        about: Sequence[Subject],
        state: AlertState,
        now: float,
        causes: _Causes,
        rules: frozenset[str] = frozenset(),
        changed: Sequence[Subject] = (),
    ) -> list[Outgoing]:
        group.number, group.is_firing = group.number + 1, state is AlertState.FIRING
        transitions = [t for one in changed for t in causes.get(one.id, ()) if t.state is state]
        notification = self._notification(group, about, state, now, transitions)
        if self._is_quiet(group.target, state):
            return [Outgoing(group.target, notification, owed=True)]
        group.told_at = now
        if self._limits.max_messages > 0:
            self._ledger.storm(group.target, group.run).note_sent(rules, now)
        return [Outgoing(group.target, notification)]

    def _notification(
        self, group: Group, about: Sequence[Subject], state: AlertState, now: float, transitions: Sequence[Transition]
    ) -> Notification:
        record_id = max(one.record_id for one in about)
        episodes = _shown_as(about, state)
        episode = episodes[0] if group.is_single else merged(group.id, episodes)
        notification = tell(episode, state, now, record_id, group.number, transitions if group.is_single else ())
        if not group.is_single:
            notification = replace(notification, run=group.run, boot=group.boot)
        return replace(notification, repeat=group.repeats if state is AlertState.FIRING else 0)

    def _has_room(self, group: Group, rules: frozenset[str], now: float) -> bool:
        if self._limits.max_messages <= 0:
            return True
        return self._ledger.storm(group.target, group.run).admits(rules, self._limits, now)

    def _is_quiet(self, target: str, state: AlertState) -> bool:
        """Whether ``target`` is told this only if it came before the target could be told that it fires."""
        return state is AlertState.RESOLVED and target in self.quiet

    def _place(self, group: Group, subject: Subject) -> Place:
        return self._ledger.places[subject.id][group.target]


def _shown_as(about: Sequence[Subject], state: AlertState) -> list[Episode]:
    """The episodes of a message; where that is about something that fires, at least one is shown firing."""
    if state is AlertState.RESOLVED:
        return [one.episode for one in about]
    is_any_alive = any(one.is_alive for one in about)
    return [as_firing(one.episode) if one.is_alive or not is_any_alive else one.episode for one in about]
