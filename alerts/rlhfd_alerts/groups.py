"""The dispatcher: who is told what, and when. Between what is decided of alerts and the outbox; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rlhfd_alerts.alert import Alert, AlertState, Transition
from rlhfd_alerts.errors import RoutingError
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.flapping import Damping
from rlhfd_alerts.flush import Flush, Unsaid
from rlhfd_alerts.inhibition import DEAD_PROCESS, InhibitRule
from rlhfd_alerts.ledger import Ledger, Rows
from rlhfd_alerts.muting import Ack, Muting
from rlhfd_alerts.places import Group, Place
from rlhfd_alerts.routing import Routing
from rlhfd_alerts.silences import Silence
from rlhfd_alerts.storm import StormLimits
from rlhfd_alerts.subjects import Subject, lone_episode, subject_id
from rlhfd_alerts.telling import Outgoing

__all__ = ["Dispatcher"]

_SET_BACK_SECONDS = 60.0  # what is due further ahead than it can be was put there before the clock was set back
_TIDY_SECONDS = 60.0
_PASSES = 64
_CHANGING = "ga"  # timers after which others may be due: a group's, a held end's

_Timer = tuple[float, str, Callable[[float, float], "list[Outgoing]"]]


class Dispatcher:
    """Takes what each record decided, and the time, and says which target gets which message.

    What a target knows is compared with what is: whatever is new to it and not muted is told when its group's time has
    come. So nothing depends on who looked when, and the same records and times give the same messages, also if it was
    restored from its rows in between. ``targets`` are those there are, ``quiet`` those told what is over only
    if that it fired did not reach them before; ``over`` says of a run and launch that nobody needs to be reminded of it
    any more.
    """

    def __init__(
        self,
        routing: Routing | None = None,
        targets: Iterable[str] = (),
        *,
        host: str = "",
        quiet: Iterable[str] = (),
        inhibit: Iterable[InhibitRule] = (DEAD_PROCESS,),
        damping: Damping | None = None,
        storms: StormLimits | None = None,
        over: Callable[[str, str, float], bool] = lambda run, boot, now: False,
    ) -> None:
        self.routing = routing or Routing()
        self.targets = tuple(targets)
        self.muting = Muting(inhibit)
        self.ledger = Ledger(self.muting, host)
        self._damping = damping or Damping()
        self._limits = storms or StormLimits()
        self._over = over
        self._flush = Flush(self.ledger, self._limits, frozenset(quiet), self._news)
        self._held: dict[str, None] = {}  # groups with news that is muted
        self._tidied = 0.0

    def configure(self, targets: Iterable[str], quiet: Iterable[str]) -> None:
        """There are other targets now."""
        self.targets = tuple(targets)
        self._flush.quiet = frozenset(quiet)
        self.ledger.drop_targets(self.targets)
        for subject in self.ledger.subjects.values():
            self._route(subject, [one.alert for one in subject.firing.values()])
        self._held = dict.fromkeys(self.ledger.groups)

    def restore(self, alerts: Iterable[Alert], rows: Mapping[str, str], now: float = 0.0) -> None:
        """Take up what was stored: the alerts and the rows. What should have been repeated before ``now`` is repeated
        once."""
        self.ledger.restore(alerts, rows, self.routing.by_id())
        for group in self.ledger.groups.values():
            if group.told_at is not None:
                group.told_at = max(group.told_at, now - group.route.timing.repeat_seconds)
        self.configure(self.targets, self._flush.quiet)

    def take_changes(self) -> Rows:
        """The rows to be stored together with the messages."""
        return self.ledger.take_changes()

    def observe(self, transitions: Sequence[Transition], now: float, by_time: bool = False) -> list[Outgoing]:
        """What is to be told after one record, received at ``now``, has decided these, or (``by_time``) its passing."""
        told = self.tick(now)
        causes: dict[str, list[Transition]] = {}
        for one in transitions:
            causes.setdefault(subject_id(one.alert.finding), []).append(one)
        touched = [subject for id_, ones in causes.items() if (subject := self._follow(id_, ones, now)) is not None]
        for subject in touched:
            self._consider(subject, now)
        self._reconsider(now)
        ready = [place.group for subject in touched for place in self.ledger.places.get(subject.id, {}).values()]
        for id_ in (*dict.fromkeys(ready), *self.ledger.groups):
            group = self.ledger.groups.get(id_)
            if group is not None and group.due is not None and group.due <= now:
                told += self._flush.flush(group, now, {} if by_time else causes)
        self.ledger.shrink()
        return told

    def tick(self, now: float) -> list[Outgoing]:
        """What has become due up to ``now``, each as of the time when it was due."""
        told: list[Outgoing] = []
        for _ in range(_PASSES):
            due = sorted((timer for timer in self._timers(now) if timer[0] <= now), key=lambda timer: timer[:2])
            before = len(told)
            for moment, _key, act in due:
                told += act(moment, now)
            if len(told) == before and not any(timer[1][0] in _CHANGING for timer in due):
                break
        self._reconsider(now)
        for group in self.ledger.groups.values():
            if group.due is not None and group.due <= now:
                told += self._flush.flush(group, now, {})
        if abs(now - self._tidied) >= _TIDY_SECONDS:
            self._tidied = now
            self._tidy(now)
        return told

    def silence(self, silence: Silence, now: float) -> None:
        """Take up a silence. Raises :class:`RoutingError` if it makes no sense."""
        self.muting.silences.add(silence, now)
        self.ledger.touch("silence", silence.id)

    def expire(self, id_: str, now: float) -> Silence:
        """End a silence. Raises :class:`RoutingError` if there is none."""
        self.ledger.touch("silence", id_)
        return self.muting.silences.expire(id_, now)

    def acknowledge(self, id_: str, author: str, comment: str, now: float) -> Ack:
        """Take note that somebody looks after an episode. Raises :class:`RoutingError` if it is not open."""
        subject = self.ledger.subjects.get(id_)
        if subject is None:
            raise RoutingError(f"there is no episode {id_!r}: rlhfd alerts list shows them")
        ack = self.muting.acknowledge(subject, author, comment, now)
        self.ledger.touch("ack", id_)
        return ack

    def _follow(self, id_: str, transitions: Sequence[Transition], now: float) -> Subject | None:
        """The subject as it is after these; ``None`` if it is over without anybody having known of it."""
        subject = self.ledger.subjects.get(id_)
        if subject is None and all(one.state is not AlertState.FIRING for one in transitions):
            return None
        episode = transitions[-1].episode or lone_episode(id_, subject, transitions)
        if subject is None:
            subject = Subject(episode, transitions[-1].record_id, now)
            subject.begin()
            self.ledger.add_subject(subject)
        subject.follow(episode, transitions, now, self._damping)
        self.ledger.touch("subject", id_)
        for one in transitions:
            firing = subject.firing.get(one.alert.fingerprint)
            if firing is None:
                self.muting.inhibition.ends(one.alert.fingerprint)
            else:
                self.muting.inhibition.fires(one.alert.fingerprint, firing.labels)
        self._route(subject, [one.alert for one in transitions if one.state is AlertState.FIRING])
        return subject

    def _route(self, subject: Subject, alerts: Iterable[Alert]) -> None:
        """Find the targets that ``alerts`` lead ``subject`` to, in this opening."""
        opening = subject.episode.opening
        places = self.ledger.places.get(subject.id, {})
        for alert in alerts:
            if sum(place.routed == opening and place.group in self.ledger.groups for place in places.values()) >= len(
                self.targets
            ):
                return
            if alert.finding.severity is Severity.INFO:
                continue
            labels = subject.labels_of(alert)
            for target, route in self.routing.targets_for(labels, self.targets).items():
                place = places.get(target)
                group = None if place is None else self.ledger.groups.get(place.group)
                if place is None or group is None or (place.told is None and place.routed != opening):
                    place = self.ledger.join(subject, target, route, labels)
                    places = self.ledger.places[subject.id]
                place.routed = opening
                self.ledger.touch("place", target, subject.id)

    def _news(self, group: Group, place: Place, subject: Subject, now: float) -> Unsaid | None:
        """What of ``subject`` the target does not know and is to be told, as far as muting goes."""
        episode = subject.episode
        found: Unsaid | None
        if place.told is not None and not subject.is_alive:
            found = Unsaid.OVER
        elif place.told is not None:
            found = Unsaid.RAISED if subject.is_open and episode.severity.rank > place.told.rank else None
            if found is None and subject.is_open and subject.acted > place.acted:
                found = Unsaid.ACTED
        elif place.routed != episode.opening or place.opening >= episode.opening or episode.severity is Severity.INFO:
            found = None
        else:
            found = Unsaid.OPENED if subject.is_open else Unsaid.PASSED
        if found is None:
            return None
        is_muted = self.routing.muted_by(group.route, now) is not None
        if found is not Unsaid.OVER:
            is_muted = is_muted or self.muting.mutes(subject, now)
        if not is_muted:
            return found
        if found is Unsaid.PASSED:  # it began and ended while nobody wanted to hear of it
            place.opening = episode.opening
            self.ledger.touch("place", group.target, subject.id)
        else:
            self._held[group.id] = None
        return None

    def _consider(self, subject: Subject, now: float) -> None:
        """Note when what is new about ``subject`` is to be told."""
        for place in self.ledger.places.get(subject.id, {}).values():
            group = self.ledger.groups.get(place.group)
            news = None if group is None else self._news(group, place, subject, now)
            if group is None or news is None:
                continue
            is_urgent = news is Unsaid.RAISED or (news is not Unsaid.OVER and subject.is_critical)
            due = now if is_urgent else group.news_at(now)
            if group.due is None or due < group.due:
                group.due = due
                self.ledger.touch("group", group.id)

    def _reconsider(self, now: float) -> None:
        """Look again at what was muted."""
        held, self._held = self._held, {}
        for id_ in held:
            group = self.ledger.groups.get(id_)
            for subject in () if group is None else self.ledger.members(group):
                self._consider(subject, now)

    def _timers(self, now: float) -> Iterator[_Timer]:
        """Everything that is due some time, with what is to be done then."""
        ledger = self.ledger
        for group in ledger.groups.values():
            if group.due is not None:
                yield self._at(group.due, now, _longest(group)), f"g{group.id}", self._flush.timer(group)
            if (again := group.repeats_at()) is not None:
                yield self._at(again, now, group.route.timing.repeat_seconds), f"r{group.id}", self._repeat(group)
        for subject in ledger.subjects.values():
            if subject.held_until is not None:
                at = self._at(subject.held_until, now, self._damping.longest_seconds)
                yield at, f"a{subject.id}", self._release(subject)
        for key, storm in ledger.storms.items():
            if (due := storm.due(self._limits)) is not None:
                yield due, "s" + "\0".join(key), self._flush.storm_timer(key)

    @staticmethod
    def _at(due: float, now: float, longest: float) -> float:
        return now if due > now + longest + _SET_BACK_SECONDS else due

    def _release(self, subject: Subject) -> Callable[[float, float], list[Outgoing]]:
        def release(moment: float, now: float) -> list[Outgoing]:
            subject.held_until = None
            self.ledger.touch("subject", subject.id)
            self._consider(subject, moment)
            return []

        return release

    def _repeat(self, group: Group) -> Callable[[float, float], list[Outgoing]]:
        def repeat(due: float, now: float) -> list[Outgoing]:
            for moment in dict.fromkeys((due, now)):  # what kept it from being told may be over meanwhile
                again = [one for one in self.ledger.members(group) if self._is_repeated(group, one, moment)]
                if again and group.repeats_at() is not None:
                    return self._flush.repeat(group, again, moment)
            return []

        return repeat

    def _is_repeated(self, group: Group, subject: Subject, now: float) -> bool:
        place = self.ledger.places[subject.id][group.target]
        if place.told is None or not subject.is_open or self.muting.is_acked(subject):
            return False
        cause = subject.episode.cause.finding
        if self._over(cause.run, cause.boot, now) or self.routing.muted_by(group.route, now) is not None:
            return False
        return not self.muting.mutes(subject, now)

    def _tidy(self, now: float) -> None:
        """Forget what is over for good."""
        ledger = self.ledger
        for subject in list(ledger.subjects.values()):
            places = ledger.places.get(subject.id, {}).values()
            is_settled = not any(place.told is not None and place.group in ledger.groups for place in places)
            is_settled = is_settled and not subject.is_alive
            if is_settled and not subject.firing and now - subject.seen_at >= self._damping.window_seconds:
                ledger.forget(subject)
        for key in [key for key, storm in ledger.storms.items() if storm.is_idle(now)]:
            del ledger.storms[key]
            ledger.touch("storm", *key)
        for id_ in self.muting.silences.prune(now):
            ledger.touch("silence", id_)


def _longest(group: Group) -> float:
    timing = group.route.timing
    return max(timing.wait_seconds, timing.interval_seconds, 3600.0)
