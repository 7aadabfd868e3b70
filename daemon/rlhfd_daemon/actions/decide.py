"""Which actions are due: a function of what was decided of alerts, and of what was due before. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import structlog

from rlhfd_alerts.alert import Alert, AlertState, Transition
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.labels import labels_of
from rlhfd_alerts.ledger import SEPARATOR
from rlhfd_alerts.matchers import Matcher, matches, parse_matchers
from rlhfd_alerts.subjects import subject_id
from rlhfd_daemon.actions.act import Act, act_id
from rlhfd_daemon.config_actions import AnyAction, name_of

__all__ = ["ACTION_FAMILY", "Decisions"]

ACTION_FAMILY = "action"  # of the alerts that tell of actions, which lead to none
MAX_ACTS = 512
_KIND = "action"
log = structlog.get_logger()

Silenced = Callable[[Mapping[str, str]], bool]


class Decisions:
    """At most one act per action and opening of an episode, also over a restart: each is a row, stored in the same
    transaction as the alerts that led to it. Bounded: of more than 512 acts the oldest that are over are forgotten."""

    def __init__(self, host: str = "") -> None:
        self.acts: dict[str, Act] = {}
        self.found_undone: set[str] = set()  # after a restart: nothing says that they were carried out
        self._host = host
        self._actions: tuple[tuple[AnyAction, tuple[Matcher, ...]], ...] = ()
        self._touched: dict[str, None] = {}

    def configure(self, actions: Iterable[AnyAction]) -> None:
        """From now on these are decided on."""
        self._actions = tuple((action, parse_matchers(action.matchers)) for action in actions)

    def action(self, name: str) -> AnyAction | None:
        """The configured action of that name."""
        return next((action for action, _ in self._actions if name_of(action) == name), None)

    def observe(self, transitions: Sequence[Transition], now: float, silenced: Silenced) -> None:
        """Note what has become due by what one record, or the passing of time, has decided; ``now`` in unix seconds.
        What is silenced leads to nothing, also when the silence is over."""
        if not self._actions:
            return
        for one in transitions:
            finding = one.alert.finding
            is_told = finding.severity is not Severity.INFO and finding.family != ACTION_FAMILY
            if one.state is AlertState.FIRING and is_told:
                labels = {**labels_of(one.alert, self._host), "episode": subject_id(finding)}
                if not silenced(labels):
                    self._decide(one.alert, labels, now)

    def put(self, act: Act) -> None:
        """Take note of what has become of an act."""
        self.acts[act.id] = act
        self._touched[act.id] = None

    def restore(self, rows: Mapping[str, str]) -> None:
        """Take up what was stored; what cannot be read is passed over."""
        for key, text in rows.items():
            if key.split(SEPARATOR)[0] == _KIND:
                try:
                    act = msgspec.json.decode(text, type=Act)
                except msgspec.MsgspecError as error:
                    log.error("a stored action is unreadable: ignored", key=key, cause=str(error))
                else:
                    self.acts[act.id] = act
                    if act.state == "decided":
                        self.found_undone.add(act.id)

    def take_changes(self) -> dict[str, str | None]:
        """The rows that have changed since the last call."""
        self._shrink()
        changed, self._touched = self._touched, {}
        acts = {id_: self.acts.get(id_) for id_ in changed}
        return {
            f"{_KIND}{SEPARATOR}{id_}": None if act is None else msgspec.json.encode(act).decode()
            for id_, act in acts.items()
        }

    def _decide(self, alert: Alert, labels: Mapping[str, str], now: float) -> None:
        finding, opening = alert.finding, 0 if alert.place is None else alert.place.opening
        for action, matchers in self._actions:
            name = name_of(action)
            id_ = act_id(name, finding.run, finding.boot, labels["episode"], opening)
            if id_ in self.acts or not matches(matchers, labels):
                continue
            self.put(
                Act(
                    id=id_,
                    name=name,
                    type=action.__struct_config__.tag,  # type: ignore[arg-type]
                    dry_run=action.dry_run,
                    run=finding.run,
                    boot=finding.boot,
                    rule=finding.rule,
                    episode=labels["episode"],
                    opening=opening,
                    step=alert.last_step,
                    summary=finding.summary,
                    decided_at=now,
                )
            )

    def _shrink(self) -> None:
        surplus = len(self.acts) - MAX_ACTS
        if surplus > 0:
            over = sorted((one for one in self.acts.values() if one.state == "over"), key=lambda one: one.decided_at)
            for act in over[:surplus]:
                del self.acts[act.id]
                self._touched[act.id] = None
