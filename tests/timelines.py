"""A world for timelines: alerts fire and end at given seconds, and the messages are written down in short."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from rlhfd_alerts.alert import Alert, AlertState, Episode, Notification, Transition
from rlhfd_alerts.finding import Finding, Severity
from rlhfd_alerts.groups import Dispatcher
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.matchers import parse_matchers
from rlhfd_alerts.silences import Silence
from rlhfd_alerts.subjects import worst_of
from rlhfd_alerts.telling import Outgoing
from rlhfd_alerts.testing import example_finding

GRAVITY = {"!": Severity.CRITICAL, "?": Severity.INFO}


class World:
    """``make`` builds the dispatcher, anew at each restart. An alert is named ``episode/rule``; ``!`` after it makes it
    critical, ``?`` information. What is told becomes lines like ``10 ops firing e1 warning``."""

    def __init__(self, make: Callable[[], Dispatcher]) -> None:
        self.make = make
        self.dispatcher = make()
        self.now = 0.0
        self.said: list[str] = []
        self.sent: list[tuple[float, Outgoing]] = []
        self.rows: dict[str, str] = {}
        self.alerts: dict[str, Alert] = {}
        self._lifecycle = Lifecycle()
        self._episodes: dict[str, Episode] = {}
        self._firing: dict[str, dict[str, Alert]] = {}
        self._record = 0

    def at(self, now: float, *changes: str, **labels: str) -> World:
        """At ``now`` one record decides ``changes``: ``+e1/kl`` fires, ``-e1/kl`` ends."""
        self.now = now
        self._record += 1
        transitions = [one for text in changes for one in self._decide(text, labels)]
        transitions = [replace(one, episode=self._episodes[one.alert.finding.episode]) for one in transitions]
        self._note(self.dispatcher.observe(transitions, now))
        return self

    def until(self, now: float, step: float = 1.0) -> World:
        """Let the time pass, looking at the timers every ``step`` seconds."""
        while self.now < now:
            self.now = min(self.now + step, now)
            self._note(self.dispatcher.tick(self.now))
        return self

    def restart(self) -> World:
        """Kill and start again: all that is left are the rows and the alerts."""
        self.dispatcher = self.make()
        self.dispatcher.restore(self.alerts.values(), self.rows, self.now)
        return self

    def silence(self, *matchers: str, until: float, id_: str = "sil_1") -> World:
        silence = Silence(id_, parse_matchers(matchers), "ada", "known", self.now, until)
        self.dispatcher.silence(silence, self.now)
        self._note([])
        return self

    def ack(self, episode: str) -> World:
        self.dispatcher.acknowledge(episode, "ada", "on it", self.now)
        self._note([])
        return self

    def _decide(self, text: str, labels: dict[str, str]) -> Iterable[Transition]:
        name = text[1:].rstrip("!?")
        episode, rule = name.split("/")
        severity = GRAVITY.get(text[-1], Severity.WARNING)
        run = labels.get("run", "example")
        own = tuple((label, value) for label, value in labels.items() if label not in ("run", "family"))
        finding = example_finding(
            run=run, rule=rule, metric=name, family=labels.get("family", "kl"), severity=severity, labels=own,
            active=text[0] == "+", time=self.now, episode=episode,
        )  # fmt: skip
        transition = self._lifecycle.observe(finding, self._record)
        if transition is None:
            return
        self.alerts[transition.alert.fingerprint] = transition.alert
        self._episodes[episode] = self._episode(episode, transition)
        yield transition

    def _episode(self, id_: str, transition: Transition) -> Episode:
        before = self._episodes.get(id_)
        held = self._firing.setdefault(id_, {})
        held.pop(transition.alert.fingerprint, None)
        if transition.state is AlertState.FIRING:
            held[transition.alert.fingerprint] = transition.alert
        firing = list(held.values())
        grave = [one for one in firing if one.finding.severity is not Severity.INFO]
        was_open = before is not None and before.state is AlertState.FIRING
        is_open = bool(grave) or (bool(firing) and (before is None or before.severity is Severity.INFO))
        opening = 0 if before is None else before.opening
        members = {} if before is None else {one.fingerprint: one for one in before.members}
        members[transition.alert.fingerprint] = transition.alert
        worst = worst_of(one.finding.severity for one in firing)
        if before is not None and (was_open or not is_open):
            worst = worst_of([worst, before.severity])
        return Episode(
            id=id_, state=AlertState.FIRING if is_open else AlertState.RESOLVED, severity=worst,
            opening=opening + (not was_open), opened_step=1, opened_time=self.now if before is None else
            before.opened_time, ended_step=None if is_open else 2, ended_time=None if is_open else self.now,
            members=tuple(members.values()), more=0, firing=len(firing), confidence=0.5,
        )  # fmt: skip

    def _note(self, told: Iterable[Outgoing]) -> None:
        for key, text in self.dispatcher.take_changes().items():
            if text is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = text
        owed: set[tuple[str, str]] = set()  # receivers here take everything, but not before all of it is stored
        for one in told:
            assert one.notification.episode is not None
            about = (one.target, one.notification.episode.id)
            if one.owed is not None and one.owed is not (about in owed):
                continue
            owed.add(about)
            self.sent.append((self.now, one))
            self.said.append(f"{self.now:g} {one.target} {short(one.notification)}")


def short(notification: Notification) -> str:
    """State, episode and severity; of a storm its number."""
    assert notification.episode is not None
    name = notification.episode.id
    if name.startswith("st_"):
        name = f"storm of {notification.head.last_value:g}"
    elif name.startswith("gr_"):
        name = "group of " + " ".join(dict.fromkeys(t.alert.finding.episode for t in notification.transitions))
    again = " again" if notification.repeat else ""
    return f"{notification.state.value}{again} {name} {notification.severity.value}"


def finding_of(notification: Notification) -> Finding:
    return notification.head.finding


def world(*targets: str, **settings: Any) -> World:
    """A world whose dispatcher knows ``targets`` and has ``settings``."""
    return World(lambda: Dispatcher(settings.get("routing"), targets or ("ops",), **{
        name: value for name, value in settings.items() if name != "routing"
    }))  # fmt: skip
