"""Silences: alerts that somebody does not want to be told of for a while, and says why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from rlhfd_alerts.errors import RoutingError
from rlhfd_alerts.matchers import Matcher, matches

__all__ = ["MAX_SILENCES", "Silence", "Silences", "silence_from_json", "silence_to_json"]

MAX_SILENCES = 1000
KEEP_EXPIRED_SECONDS = 5 * 86_400.0  # as Alertmanager's data.retention
MAX_TEXT = 1024


@dataclass(frozen=True, slots=True)
class Silence:
    """In force from ``starts_at`` until before ``ends_at`` (unix seconds), for alerts that meet all ``matchers``."""

    id: str
    matchers: tuple[Matcher, ...]
    author: str
    comment: str
    starts_at: float
    ends_at: float

    def state(self, now: float) -> str:
        """``pending``, ``active`` or ``expired``."""
        return "expired" if now >= self.ends_at else "active" if now >= self.starts_at else "pending"


class Silences:
    """All silences; those that ended are kept for five days to be seen. Pure: whoever changes it stores the change."""

    def __init__(self, silences: Iterable[Silence] = ()) -> None:
        self._silences = {silence.id: silence for silence in silences}

    @property
    def all(self) -> tuple[Silence, ...]:
        """Those known, the one that ends last at the end."""
        return tuple(sorted(self._silences.values(), key=lambda one: (one.ends_at, one.id)))

    def take_up(self, silence: Silence) -> None:
        """Know a stored silence again, as it is."""
        self._silences[silence.id] = silence

    def add(self, silence: Silence, now: float) -> None:
        """Take up ``silence``, in place of one with its id. Raises :class:`RoutingError` if it can never apply, or
        would silence everything for want of a matcher."""
        if not silence.matchers or all(matcher.matches({}) for matcher in silence.matchers):
            raise RoutingError('a silence needs a matcher that not everything meets, like run="ppo-7" or rule=~".+"')
        if silence.ends_at <= max(now, silence.starts_at):
            raise RoutingError("a silence must end after it begins, and in the future")
        if not silence.author or max(len(silence.author), len(silence.comment)) > MAX_TEXT:
            raise RoutingError(f"a silence needs an author; author and comment have at most {MAX_TEXT} characters")
        if silence.id not in self._silences and len(self._silences) >= MAX_SILENCES:
            raise RoutingError(f"there are {MAX_SILENCES} silences already: let some expire, or use wider matchers")
        self._silences[silence.id] = silence

    def expire(self, id_: str, now: float) -> Silence:
        """End a silence now and return it as it is then. Raises :class:`RoutingError` if there is no such."""
        silence = self._silences.get(id_)
        if silence is None:
            raise RoutingError(f"there is no silence {id_!r}: rlhfd silence list shows them")
        if silence.state(now) != "expired":
            silence = replace(silence, starts_at=min(silence.starts_at, now), ends_at=now)
            self._silences[id_] = silence
        return silence

    def silencing(self, labels: Mapping[str, str], now: float) -> Sequence[Silence]:
        """The silences in force at ``now`` that ``labels`` meet."""
        return [one for one in self._silences.values() if one.state(now) == "active" and matches(one.matchers, labels)]

    def prune(self, now: float) -> list[str]:
        """Forget those that ended long ago, and return their ids."""
        old = [one.id for one in self._silences.values() if one.ends_at + KEEP_EXPIRED_SECONDS <= now]
        for id_ in old:
            del self._silences[id_]
        return old


def silence_to_json(silence: Silence) -> str:
    """Return ``silence`` as it is stored."""
    return json.dumps(asdict(silence), sort_keys=True, separators=(",", ":"))


def silence_from_json(text: str) -> Silence:
    """Return the silence that :func:`silence_to_json` wrote. Raises ``ValueError`` if it did not write this."""
    try:
        fields = json.loads(text)
        return Silence(**{**fields, "matchers": tuple(Matcher(**one) for one in fields["matchers"])})
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a silence: {error}") from error
