"""What is not told although it fires: silenced, inhibited; and what is not told again: acknowledged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from rlhfd_alerts.errors import RoutingError
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.inhibition import Inhibition, InhibitRule
from rlhfd_alerts.silences import Silences
from rlhfd_alerts.subjects import Subject

__all__ = ["Ack", "Muting", "ack_from_json", "ack_to_json"]


@dataclass(frozen=True, slots=True)
class Ack:
    """Somebody looks after an episode: it is not told again, unless it opens again or gets worse than it was."""

    episode: str
    opening: int
    severity: Severity
    author: str
    comment: str
    at: float


class Muting:
    """Silences, inhibition and acknowledgements of one daemon. Pure."""

    def __init__(self, inhibit: Iterable[InhibitRule]) -> None:
        self.silences = Silences()
        self.inhibition = Inhibition(tuple(inhibit))
        self.acks: dict[str, Ack] = {}

    def reason(self, labels: Mapping[str, str], now: float) -> str | None:
        """Why an alert with ``labels`` is not told; ``None`` if it is."""
        silencing = self.silences.silencing(labels, now)
        if silencing:
            return f"silenced by {silencing[0].id}"
        source = self.inhibition.inhibiting(labels)
        return None if source is None else f"inhibited by {source}"

    def mutes(self, subject: Subject, now: float) -> bool:
        """Whether all that speaks for telling ``subject`` is muted."""
        grave = subject.grave
        return bool(grave) and all(self.reason(one.labels, now) is not None for one in grave)

    def acknowledge(self, subject: Subject, author: str, comment: str, now: float) -> Ack:
        """Raises :class:`RoutingError` if there is nothing to look after."""
        if not subject.is_open:
            raise RoutingError(f"{subject.id} is over: there is nothing to acknowledge")
        episode = subject.episode
        ack = Ack(subject.id, episode.opening, episode.severity, author[:1024], comment[:1024], now)
        self.acks[subject.id] = ack
        return ack

    def is_acked(self, subject: Subject) -> bool:
        """Whether somebody looks after ``subject`` as it is now."""
        ack = self.acks.get(subject.id)
        if ack is None or ack.opening != subject.episode.opening:
            return False
        return subject.episode.severity.rank <= ack.severity.rank


def ack_to_json(ack: Ack) -> str:
    """Return ``ack`` as it is stored."""
    return json.dumps(asdict(ack), sort_keys=True, separators=(",", ":"))


def ack_from_json(text: str) -> Ack:
    """Return the acknowledgement that :func:`ack_to_json` wrote. Raises ``ValueError`` if it did not write this."""
    try:
        fields = json.loads(text)
        return Ack(**{**fields, "severity": Severity(fields["severity"])})
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an acknowledgement: {error}") from error
