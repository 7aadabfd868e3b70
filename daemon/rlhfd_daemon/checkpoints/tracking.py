"""What became of the checkpoints below a root since it was looked at before: a decision, without input or output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from rlhfd_daemon.checkpoints.completeness import (
    LIMITS,
    Known,
    Limits,
    Sighting,
    State,
    Verdict,
    judge,
    sight,
)  # fmt: skip
from rlhfd_daemon.checkpoints.layout import Description, Layout

__all__ = ["Change", "News", "Tracked", "track"]

KNOWN_NOTHING = Known()


class News(str, Enum):
    """What a change says."""

    APPEARED = "appeared"
    COMPLETE = "complete"
    BROKEN = "broken"
    VANISHED = "vanished"


@dataclass(frozen=True, slots=True)
class Change:
    """``at`` is when it was noticed, Unix seconds, ``age_seconds`` how long ago it appeared. A checkpoint that was
    written anew in the same folder appears and is complete again."""

    root: str
    news: News
    description: Description
    verdict: Verdict
    at: float
    age_seconds: float


@dataclass(frozen=True, slots=True)
class _Known:
    sighting: Sighting
    appeared: float
    state: State
    told: str = ""  # the stamp with which it was last said to be complete or broken


@dataclass(frozen=True, slots=True)
class Tracked:
    """What is known of the checkpoints below one root, by path."""

    root: str
    by_path: Mapping[str, _Known] = field(default_factory=dict)

    @property
    def states(self) -> dict[str, State]:
        """The state of each."""
        return {path: one.state for path, one in self.by_path.items()}

    def description(self, path: str) -> Description:
        """As it was seen last."""
        return self.by_path[path].sighting.description

    @property
    def unsettled(self) -> bool:
        """Whether any is being written."""
        return any(one.state is State.IN_PROGRESS for one in self.by_path.values())


def track(
    before: Tracked,
    layout: Layout,
    now: float,
    known: Callable[[Description], Known] = lambda _: KNOWN_NOTHING,
    limits: Limits = LIMITS,
) -> tuple[Tracked, list[Change]]:
    """The checkpoints as they are ``now``, and what changed; ``known`` is what the processes say of one.

    With a problem in ``layout`` one that is not in it is left as it was: it may only be out of sight.
    """
    after: dict[str, _Known] = {}
    changes: list[Change] = []

    def tell(news: News, found: Description, verdict: Verdict, appeared: float) -> None:
        changes.append(Change(before.root, news, found, verdict, now, max(now - appeared, 0.0)))

    for found in layout.checkpoints:
        was = before.by_path.get(found.path)
        if was is not None and was.sighting.description.identity != found.identity:
            gone = was.sighting.description
            tell(News.VANISHED, gone, Verdict(State.VANISHED, "was deleted, and another is in its place"), was.appeared)
            was = None
        last = was.sighting if was is not None else None
        verdict = judge(found, last, now, known(found), limits)
        appeared = was.appeared if was is not None else now
        if was is None or _is_rewritten(was, verdict):
            appeared = now
            tell(News.APPEARED, found, verdict, appeared)
        told = was.told if was is not None else ""
        mark = f"{verdict.state.value} {found.stamp}"
        if verdict.state in (State.COMPLETE, State.INCOMPLETE) and told != mark:
            told = mark
            tell(News.COMPLETE if verdict.state is State.COMPLETE else News.BROKEN, found, verdict, appeared)
        after[found.path] = _Known(sight(found, last, now), appeared, verdict.state, told)
    for path, was in before.by_path.items():
        if path in after:
            continue
        if layout.problem:
            after[path] = was
            continue
        tell(News.VANISHED, was.sighting.description, _vanished(was, layout), was.appeared)
    return Tracked(before.root, after), changes


def _is_rewritten(was: _Known, verdict: Verdict) -> bool:
    return was.state is State.COMPLETE and verdict.state is State.IN_PROGRESS and not verdict.deleting


def _vanished(was: _Known, layout: Layout) -> Verdict:
    folder = was.sighting.description.path.rpartition("/")[0]
    others = sum(1 for one in layout.checkpoints if one.path.rpartition("/")[0] == folder)
    rotated = f", as rotation does; {others} others are there" if others else ""
    unfinished = "" if was.told.startswith(State.COMPLETE.value) else " before it was seen complete"
    return Verdict(State.VANISHED, f"was deleted{unfinished}{rotated}")
