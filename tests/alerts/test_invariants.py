"""Whatever happens in whatever order: what a target is told makes sense, nothing is lost, a restart changes nothing."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from rlhfd_alerts.alert import AlertState
from rlhfd_alerts.groups import Dispatcher
from rlhfd_alerts.matchers import parse_matchers
from rlhfd_alerts.routing import Node, Routing
from rlhfd_alerts.storm import StormLimits
from timelines import World

HOUR = 3600.0
STEP = 600.0  # what is due in between is told as of its time
EPISODES = st.sampled_from(["e", "f", "g"])
ALERTS = st.sampled_from(["a", "b!", "c?"])
SECONDS = st.sampled_from([0.0, 1.0, 20.0, 31.0, 200.0, 301.0, 1000.0, 2 * HOUR])


def dispatcher(wait: float, interval: float, limit: int) -> Dispatcher:
    critical = Node(parse_matchers(["severity=critical"]), targets=("pager", "chat"))
    root = Node(
        targets=("chat",), wait_seconds=wait, interval_seconds=interval, repeat_seconds=HOUR, routes=(critical,)
    )
    return Dispatcher(Routing(root), ("chat", "pager"), storms=StormLimits(limit, 2 * HOUR))


class Timelines(RuleBasedStateMachine):
    """Two worlds live the same life; one of them is killed now and then."""

    shape: tuple[float, float, int] = (0.0, 0.0, 0)

    def __init__(self) -> None:
        super().__init__()
        self.steady, self.killed = (World(lambda: dispatcher(*self.shape)) for _ in range(2))
        self.read = 0
        self.is_told: dict[tuple[str, str], bool] = {}
        self.last: dict[tuple[str, str], float] = {}
        self.silences = 0
        self.silent_until = 0.0
        self.firing: set[str] = set()

    @property
    def now(self) -> float:
        return self.steady.now

    def both(self, act: Any) -> None:
        for one in (self.steady, self.killed):
            act(one)

    @rule(episode=EPISODES, alert=ALERTS, seconds=SECONDS)
    def fires(self, episode: str, alert: str, seconds: float) -> None:
        now = self.now + seconds
        self.firing.add(f"{episode}/{alert}")
        self.both(lambda world: world.until(now, STEP).at(now, f"+{episode}/{alert}"))

    @rule(episode=EPISODES, alert=ALERTS, seconds=SECONDS)
    def ends(self, episode: str, alert: str, seconds: float) -> None:
        now = self.now + seconds
        self.firing.discard(f"{episode}/{alert}")
        self.both(lambda world: world.until(now, STEP).at(now, f"-{episode}/{alert}"))

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        now = self.now + seconds
        self.both(lambda world: world.until(now, STEP))

    @rule(name=st.sampled_from(["rule=a", "severity=critical", "episode=e"]), seconds=st.sampled_from([25.0, 900.0]))
    def is_silenced(self, name: str, seconds: float) -> None:
        self.silences += 1
        until, id_ = self.now + seconds, f"sil_{self.silences}"
        self.silent_until = max(self.silent_until, until)
        self.both(lambda world: world.silence(name, until=until, id_=id_))

    @precondition(lambda self: any(one.is_open for one in self.steady.dispatcher.ledger.subjects.values()))
    @rule()
    def is_acknowledged(self) -> None:
        found = min(one.id for one in self.steady.dispatcher.ledger.subjects.values() if one.is_open)
        self.both(lambda world: world.ack(found))

    @rule()
    def is_killed(self) -> None:
        self.killed.restart()

    @rule()
    def settles(self) -> None:
        """After all waits and silences everybody knows what is so."""
        now = max(self.now, self.silent_until) + 2 * HOUR
        self.both(lambda world: world.until(now, STEP))
        self.what_is_told_makes_sense()
        if self.shape[2]:
            return  # in a storm the summary tells, see test_storm
        for episode in ("e", "f", "g"):
            is_open = any(one.startswith(episode) and not one.endswith("?") for one in self.firing)
            assert self.is_told.get(("chat", episode), False) is is_open
            assert is_open or not self.is_told.get(("pager", episode), False)
        for one in self.firing:
            assert not one.endswith("!") or self.is_told["pager", one[0]]

    @invariant()
    def what_is_told_makes_sense(self) -> None:
        for _, one in self.steady.sent[self.read :]:
            notification, when = one.notification, one.notification.lead.time
            assert notification.episode is not None
            if notification.episode.id.startswith("st_"):
                continue
            key = (one.target, notification.episode.id)
            if notification.state is AlertState.RESOLVED:
                assert self.is_told.get(key), "resolved only once, and only after firing"
            if notification.repeat:
                assert when - self.last.get(key, when - HOUR) >= HOUR, "no repeat before its time"
            self.is_told[key] = notification.state is AlertState.FIRING
            self.last[key] = when
        self.read = len(self.steady.sent)

    @invariant()
    def a_restart_changes_nothing(self) -> None:
        assert self.killed.said == self.steady.said
        assert self.killed.rows == self.steady.rows

    @invariant()
    def ids_are_never_used_twice(self) -> None:
        ids = [(one.target, one.notification.id) for _, one in self.steady.sent]
        assert len(set(ids)) == len(ids)


class Spaced(Timelines):
    shape = (30.0, 300.0, 0)


class Stormy(Timelines):
    shape = (0.0, 0.0, 3)


@pytest.mark.parametrize("machine", [Timelines, Spaced, Stormy])
def test_promise_D12_an_end_is_told_once_and_only_where_its_beginning_was(machine: type[Timelines]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=30, stateful_step_count=20, deadline=None))
