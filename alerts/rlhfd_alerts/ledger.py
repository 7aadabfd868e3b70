"""What the dispatcher knows and what of it has changed since it was last stored: rows of key and JSON text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import structlog

from rlhfd_alerts.alert import Alert, AlertState
from rlhfd_alerts.muting import Muting, ack_from_json, ack_to_json
from rlhfd_alerts.places import Group, Place, group_from_json, group_to_json, place_from_json, place_to_json
from rlhfd_alerts.routing import Route
from rlhfd_alerts.silences import silence_from_json, silence_to_json
from rlhfd_alerts.storm import Storm, storm_from_json, storm_to_json
from rlhfd_alerts.subjects import Subject, subject_from_json, subject_id, subject_to_json
from rlhfd_alerts.telling import group_id

__all__ = ["MAX_SUBJECTS", "SEPARATOR", "Ledger", "Rows"]

MAX_SUBJECTS = 1024
SEPARATOR = "\x1f"  # of the parts of a row's key

Rows = Mapping[str, "str | None"]
"""Rows to store by key; ``None``: there is none any more."""

_log = structlog.get_logger("rlhfd.alerts")


class Ledger:
    """Subjects, their places at targets, groups, storms; bounded. Who changes one of them says so with ``touch``."""

    def __init__(self, muting: Muting, host: str = "") -> None:
        self.subjects: dict[str, Subject] = {}
        self.places: dict[str, dict[str, Place]] = {}  # by subject and target
        self.groups: dict[str, Group] = {}
        self.storms: dict[tuple[str, str], Storm] = {}
        self.muting = muting
        self._host = host
        self._touched: dict[tuple[str, ...], None] = {}

    def touch(self, *key: str) -> None:
        """Note that ``("subject", id)``, ``("group", id)``, ``("place", target, subject)``, ``("storm", target, run)``,
        ``("silence", id)`` or ``("ack", id)`` has changed, or has gone."""
        self._touched[key] = None

    def take_changes(self) -> dict[str, str | None]:
        """The rows that have changed since the last call."""
        rows = {SEPARATOR.join(key): self._row(key) for key in self._touched}
        self._touched = {}
        return rows

    def add_subject(self, subject: Subject) -> None:
        """Take up an episode."""
        subject.host = self._host
        self.subjects[subject.id] = subject

    def shrink(self) -> None:
        """If there are too many episodes, forget those that are over, least severe or heard of longest ago."""
        surplus = len(self.subjects) - MAX_SUBJECTS
        if surplus > 0:
            ranked = sorted(self.subjects.values(), key=_importance)
            for subject in ranked[:surplus]:
                self.forget(subject)

    def forget(self, subject: Subject) -> None:
        """Forget an episode and whom it was told."""
        del self.subjects[subject.id]
        for fingerprint in subject.firing:
            self.muting.inhibition.ends(fingerprint)
        for target, place in self.places.pop(subject.id, {}).items():
            self.touch("place", target, subject.id)
            self.leave(place, subject.id)
        if self.muting.acks.pop(subject.id, None) is not None:
            self.touch("ack", subject.id)
        self.touch("subject", subject.id)

    def join(self, subject: Subject, target: str, route: Route, labels: Mapping[str, str]) -> Place:
        """Put ``subject`` into its group at ``target``, as an alert with ``labels`` says."""
        id_ = group_id(route.id, target, route.group_of(labels))
        group = self.groups.get(id_)
        if group is None:
            cause = subject.episode.cause.finding
            group = self.groups[id_] = Group(id_, target, route, cause.run, cause.boot)
        place = self.places.setdefault(subject.id, {}).setdefault(target, Place(id_))
        if place.group != id_:
            self.leave(place, subject.id)
            place.group = id_
            group.is_firing = group.is_firing or place.told is not None  # told in a group that the tree had before
        group.subjects.add(subject.id)
        self.touch("group", id_)
        self.touch("place", target, subject.id)
        return place

    def leave(self, place: Place, subject: str) -> None:
        """Take a subject out of its group, which ends with its last."""
        group = self.groups.get(place.group)
        if group is None:
            return
        group.subjects.discard(subject)
        if not group.subjects:
            del self.groups[group.id]
            self.touch("group", group.id)

    def drop_targets(self, known: Sequence[str]) -> None:
        """Nothing is told any more to targets other than these; what they know is kept for when they are back."""
        for group in [one for one in self.groups.values() if one.target not in known]:
            del self.groups[group.id]
            self.touch("group", group.id)
        for key in [one for one in self.storms if one[0] not in known]:
            del self.storms[key]
            self.touch("storm", *key)

    def storm(self, target: str, run: str) -> Storm:
        """What ``target`` was told of ``run``, about to be changed."""
        self.touch("storm", target, run)
        return self.storms.setdefault((target, run), Storm(target, run))

    def members(self, group: Group) -> list[Subject]:
        """The episodes of a group, in the order they opened."""
        found = [self.subjects[one] for one in group.subjects]
        return sorted(found, key=lambda one: (one.episode.opened_time, one.id))

    def restore(self, alerts: Iterable[Alert], rows: Mapping[str, str], routes: dict[str, Route]) -> None:
        """Take up what was stored; what cannot be read is passed over, so that the rest is told."""
        by_fingerprint = {alert.fingerprint: alert for alert in alerts}
        readers: dict[str, Callable[[list[str], str], None]] = {
            "subject": lambda key, text: self.add_subject(subject_from_json(text, by_fingerprint)),
            "group": lambda key, text: self._restore_group(key[1], text, routes),
            "place": lambda key, text: self._restore_place(key[1], key[2], text),
            "storm": lambda key, text: self.storms.update({(key[1], key[2]): storm_from_json(text)}),
            "silence": lambda key, text: self.muting.silences.take_up(silence_from_json(text)),
            "ack": lambda key, text: self.muting.acks.update({key[1]: ack_from_json(text)}),
        }
        for kind, read in readers.items():
            for key, text in (
                (one.split(SEPARATOR), text) for one, text in rows.items() if one.split(SEPARATOR)[0] == kind
            ):
                try:
                    read(key, text)
                except (ValueError, IndexError) as error:
                    _log.error("stored state of alerts is unreadable: ignored", key=" ".join(key), cause=str(error))
        self._restore_firing(by_fingerprint.values())
        for group in [one for one in self.groups.values() if not one.subjects]:
            del self.groups[group.id]
        self._touched = {}

    def _restore_group(self, id_: str, text: str, routes: dict[str, Route]) -> None:
        group = group_from_json(id_, text, routes)
        if group is not None:
            self.groups[id_] = group

    def _restore_place(self, target: str, subject: str, text: str) -> None:
        if subject not in self.subjects:
            return
        place = place_from_json(text)
        self.places.setdefault(subject, {})[target] = place
        if place.group in self.groups:
            self.groups[place.group].subjects.add(subject)

    def _restore_firing(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            subject = self.subjects.get(subject_id(alert.finding))
            if alert.state is AlertState.FIRING and subject is not None:
                self.muting.inhibition.fires(alert.fingerprint, subject.put(alert).labels)

    def _row(self, key: tuple[str, ...]) -> str | None:
        return next(self._rows(key), None)

    def _rows(self, key: tuple[str, ...]) -> Iterator[str]:
        kind, name = key[0], key[1]
        if kind == "subject" and name in self.subjects:
            yield subject_to_json(self.subjects[name])
        elif kind == "group" and name in self.groups:
            yield group_to_json(self.groups[name])
        elif kind == "place" and name in self.places.get(key[2], {}):
            yield place_to_json(self.places[key[2]][name])
        elif kind == "storm" and (name, key[2]) in self.storms:
            yield storm_to_json(self.storms[name, key[2]])
        elif kind == "ack" and name in self.muting.acks:
            yield ack_to_json(self.muting.acks[name])
        elif kind == "silence":
            yield from (silence_to_json(one) for one in self.muting.silences.all if one.id == name)


def _importance(subject: Subject) -> tuple[bool, int, float, str]:
    return subject.is_alive, subject.episode.severity.rank, subject.seen_at, subject.id
