"""From transitions to the outbox: the dispatcher's decisions and state are stored with the messages, or not at all."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import structlog

from rlhfd_alerts.alert import Alert, Notification, Transition
from rlhfd_alerts.errors import OutboxError
from rlhfd_alerts.grouping import group
from rlhfd_alerts.groups import Dispatcher
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.receivers.alertmanager import AlertmanagerSettings
from rlhfd_alerts.telling import Outgoing
from rlhfd_daemon.actions.decide import Decisions
from rlhfd_daemon.config import Config
from rlhfd_daemon.config_alerts import dispatcher_of
from rlhfd_daemon.runs import Runs

__all__ = ["Alerting", "dispatcher_for"]

MAX_OWED = 10_000
REMIND_SECONDS = 86_400.0  # of what was wrong when a run ended, unless it was started again
log = structlog.get_logger()


class Alerting:
    """One writer, in the loop's thread. ``decided`` is called after messages were stored.

    What cannot be stored, for want of disk, is kept and stored with what comes next; until then no record counts as
    decided on, so that a crash loses nothing of it.
    """

    def __init__(
        self,
        outbox: Outbox,
        lifecycle: Lifecycle,
        dispatcher: Dispatcher,
        *,
        decided: Callable[[], None],
        actions: Decisions | None = None,
    ) -> None:
        self.notifications = 0  # news of episodes, whoever is told
        self.dropped = 0  # messages that were neither stored nor kept, while the disk was full
        self.dispatcher = dispatcher
        self.outbox = outbox
        self._is_dropping = False
        self._lifecycle = lifecycle
        self._decided = decided
        self._actions = actions or Decisions()
        self._transitions: list[Transition] = []
        self._outgoing: list[Outgoing] = []
        self._rows: dict[str, str | None] = {}
        self._committed = outbox.decided_through()

    def restore(self, now: float) -> None:
        """Take up what was stored; ``now`` is unix seconds."""
        self.dispatcher.restore(self.outbox.alerts(), self.outbox.rows(), now)
        self._actions.restore(self.outbox.rows())

    def replace(self, dispatcher: Dispatcher, now: float) -> None:
        """Go on with another dispatcher, which takes up what this one has stored. Raises :class:`OutboxError`."""
        self.store(self._committed, now)
        dispatcher.restore(self.outbox.alerts(), self.outbox.rows(), now)
        self.dispatcher = dispatcher

    def take(self, transitions: Sequence[Transition], record_id: int, now: float, *, by_time: bool = False) -> None:
        """Decide who is told of what record ``record_id`` has decided, and store all of it at once."""
        self._transitions += transitions
        for news in group(transitions):
            self.notifications += 1
            _say(news)
        self._outgo(self.dispatcher.observe(transitions, now, by_time))
        silences = self.dispatcher.muting.silences
        self._actions.observe(transitions, now, lambda labels: bool(silences.silencing(labels, now)))
        self._try(record_id, now)

    def tick(self, now: float, record_id: int) -> None:
        """Tell what has become due; ``record_id`` is the last that was decided on."""
        told = self.dispatcher.tick(now)
        self._outgo(told)
        if told or self._outgoing or self._transitions:
            self._try(record_id, now)

    @property
    def pending(self) -> Sequence[tuple[Alert, float]]:
        """What will fire if it lasts, and when."""
        return self._lifecycle.pending

    @property
    def is_stored(self) -> bool:
        """Whether all that was decided is on disk."""
        return not (self._transitions or self._outgoing or self._rows)

    def settle(self, now: float) -> None:
        """Store what an operator has changed. Raises :class:`OutboxError`."""
        self.store(self._committed, now)

    def advance(self, record_id: int, now: float) -> None:
        """Store how far decisions have come, with all that is not stored yet. Raises :class:`OutboxError`."""
        self._collect()
        if record_id > self._committed or self._rows or self._transitions:
            self.store(max(record_id, self._committed), now)

    def store(self, record_id: int, now: float) -> None:
        """Store everything, now. Raises :class:`OutboxError`; then nothing is stored and all is kept."""
        self._collect()
        self.outbox.tell(self._transitions, self._outgoing, record_id, now, self._rows)
        self._committed = record_id
        told, self._transitions, self._outgoing, self._rows = self._outgoing, [], [], {}
        if self._is_dropping:
            log.error("messages can be stored again", dropped_total=self.dropped)
        self._is_dropping = False
        if told:
            self._decided()

    def _outgo(self, told: Sequence[Outgoing]) -> None:
        self._outgoing += told

    def _try(self, record_id: int, now: float) -> None:
        try:
            self.store(max(record_id, self._committed), now)
        except OutboxError as error:
            log.error("decisions not stored yet", error=str(error), messages=len(self._outgoing))
            self._bound()

    def _collect(self) -> None:
        self._rows.update(self.dispatcher.take_changes())
        self._rows.update(self._lifecycle.take_changes())
        self._rows.update(self._actions.take_changes())

    def _bound(self) -> None:
        """What is kept while the disk is full: of each alert its last state; of messages so many, the gravest."""
        latest: dict[str, Transition] = {one.alert.fingerprint: one for one in self._transitions}
        self._transitions = list(latest.values())
        surplus = len(self._outgoing) - MAX_OWED
        if surplus > 0:
            ranked = sorted(range(len(self._outgoing)), key=lambda at: self._outgoing[at].notification.severity.rank)
            dropped = set(ranked[:surplus])
            self._outgoing = [one for at, one in enumerate(self._outgoing) if at not in dropped]
            if not self._is_dropping:
                log.error("no room for messages until they can be stored: the least severe are dropped")
            self._is_dropping, self.dropped = True, self.dropped + surplus


def dispatcher_for(config: Config, runs: Runs) -> Dispatcher:
    """The dispatcher that ``config`` describes. Nobody is reminded of launches that ended a day ago, or whose run was
    started again."""

    def is_over(run: str, boot: str, now: float) -> bool:
        found = runs.runs.get((run, boot))
        if found is None or not found.is_training or found.live:
            return False
        return now - found.last_seen > REMIND_SECONDS or any(one.live and one.run == run for one in runs.runs.values())

    # An Alertmanager takes for firing what it is not told the end of; who hears of ends is its own configuration.
    targets = config.targets.items()
    quiet = [name for name, one in targets if not (one.send_resolved or isinstance(one, AlertmanagerSettings))]
    return dispatcher_of(config.alerts, config.targets, host=socket.gethostname(), quiet=quiet, over=is_over)


def _say(decided: Notification) -> None:
    log.warning(
        f"alert {decided.state.value}",
        run=decided.run,
        rule=decided.rule,
        metrics=[transition.alert.finding.metric for transition in decided.transitions],
        step=decided.transitions[0].alert.finding.step,
    )
