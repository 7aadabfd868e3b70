"""The configuration of actions: what the daemon does by itself when an alert fires; nothing without it."""

from __future__ import annotations

import difflib
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Union

from msgspec import Meta, Struct

from rlhfd_alerts.errors import AlertsError
from rlhfd_alerts.matchers import parse_matcher
from rlhfd_daemon.errors import Problem

__all__ = [
    "ACTIONS",
    "ActionConfig",
    "AnyAction",
    "CheckpointAction",
    "SentinelAction",
    "SignalAction",
    "StopAction",
    "action_faults",
    "name_of",
]

MAX_NAME = 64
PLACEHOLDERS = ("run", "boot", "rule", "episode")


class ActionConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Done once each time an episode opens in which an alert that meets all ``matchers`` fires. ``name``: the type if
    none is given. ``dry_run``: say what would be done, and do nothing."""

    name: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    matchers: tuple[str, ...] = ('severity="critical"',)
    dry_run: bool = False


class SentinelAction(ActionConfig, frozen=True, kw_only=True, tag="sentinel"):
    """Write a file that says why. ``path`` may name {run}, {boot}, {rule} and {episode}."""

    path: str


class SignalAction(ActionConfig, frozen=True, kw_only=True, tag="signal"):
    """Send ``signal`` to the run's processes of ``role`` (of ``rank``, if given)."""

    signal: str
    role: Annotated[str, Meta(min_length=1, max_length=128)]
    rank: Annotated[int, Meta(ge=0)] | None = None


class CheckpointAction(ActionConfig, frozen=True, kw_only=True, tag="checkpoint"):
    """Ask the PPO trainer to save a checkpoint at the end of its step."""


class StopAction(ActionConfig, frozen=True, kw_only=True, tag="stop"):
    """Ask the PPO trainer to save a checkpoint at the end of its step, and to end the run there."""


AnyAction = Union[SentinelAction, SignalAction, CheckpointAction, StopAction]  # noqa: UP007 - evaluated by msgspec
ACTIONS: dict[str, type[ActionConfig]] = {
    "sentinel": SentinelAction,
    "signal": SignalAction,
    "checkpoint": CheckpointAction,
    "stop": StopAction,
}


def name_of(action: ActionConfig) -> str:
    """What the action is called."""
    return action.name or str(action.__struct_config__.tag)


def action_faults(actions: tuple[AnyAction, ...]) -> list[Problem]:
    """What types cannot say about the actions."""
    return [problem for number, one in enumerate(actions) for problem in _faults(f"actions[{number}]", one, actions)]


def _faults(place: str, action: AnyAction, actions: tuple[AnyAction, ...]) -> Iterator[Problem]:
    name = name_of(action)
    if Counter(map(name_of, actions))[name] > 1:
        yield Problem(f"{place}.name", f"there is more than one action called {name!r}: give each a name of its own")
    if not name.isprintable():
        yield Problem(f"{place}.name", "must be one line of printable text")
    for text in action.matchers:
        yield from _tried(f"{place}.matchers", lambda text=text: parse_matcher(text))  # type: ignore[misc]
    if isinstance(action, SentinelAction):
        yield from _path_faults(f"{place}.path", action.path)
    elif isinstance(action, SignalAction) and action.signal not in signal.Signals.__members__:
        nearest = difflib.get_close_matches(action.signal.upper(), signal.Signals.__members__, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "write it like 'SIGUSR1'"
        yield Problem(f"{place}.signal", f"there is no signal {action.signal!r}; {hint}")


def _path_faults(place: str, path: str) -> Iterator[Problem]:
    if not path.startswith("/") or path.endswith("/") or "\0" in path or ".." in path.split("/"):
        yield Problem(place, "must be the absolute path of a file, without '..'")
    try:
        path.format_map(dict.fromkeys(PLACEHOLDERS, "x"))
    except (KeyError, ValueError, IndexError, AttributeError):
        yield Problem(place, f"may name {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)} only")


def _tried(name: str, act: Callable[[], object]) -> list[Problem]:
    try:
        act()
    except AlertsError as error:
        return [Problem(name, str(error))]
    return []
