"""An episode in a message: what came first, what followed, since when, on what evidence, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable

from rlhfd_alerts.alert import Alert, Episode
from rlhfd_alerts.canonical import spell, timestamp
from rlhfd_alerts.finding import Finding
from rlhfd_alerts.sparkline import sparkline

__all__ = ["episode_content", "rule_url"]


def rule_url(rule: str) -> str:
    """Return where ``rule`` is documented, relative to the project."""
    return f"docs/rules.md#{rule}"


def episode_content(episode: Episode) -> dict[str, object]:
    """Return what JSON says of ``episode``; a pure function of it, see :func:`rlhfd_alerts.content.body`.

    ``roles`` and ``ranks`` are those that its members' labels name. ``opening`` counts how often it has begun.
    """
    cause = episode.cause
    return {
        "id": episode.id,
        "state": episode.state.value,
        "severity": episode.severity.value,
        "opening": episode.opening,
        "opened_step": episode.opened_step,
        "opened_at": timestamp(episode.opened_time),
        "ended_step": episode.ended_step,
        "ended_at": None if episode.ended_time is None else timestamp(episode.ended_time),
        "confidence": episode.confidence,
        "firing": episode.firing,
        "roles": sorted(_labels(episode.members, "role")),
        "ranks": sorted(_labels(episode.members, "rank"), key=lambda rank: (len(rank), rank)),
        "cause": {
            "fingerprint": cause.fingerprint,
            "rule": cause.finding.rule,
            "rule_url": rule_url(cause.finding.rule),
            "metric": cause.finding.metric,
            "family": cause.finding.family,
            "onset_step": _onset_step(cause),
            "summary": cause.finding.summary,
            "remedy": cause.finding.remedy,
        },
        "members": [_member(member) for member in episode.members],
        "more": episode.more,
    }


def _member(alert: Alert) -> dict[str, object]:
    finding = alert.finding
    return {
        "fingerprint": alert.fingerprint,
        "rule": finding.rule,
        "metric": finding.metric,
        "family": finding.family,
        "severity": finding.severity.value,
        "state": alert.state.value,
        "onset_step": _onset_step(alert),
        "onset_time": timestamp(finding.onset_time if alert.place is None else alert.place.onset_time),
        "ended_step": None if alert.ends_at is None else alert.last_step,
        "values": _values(finding),
        "baseline": spell(finding.baseline),
        "sparkline": sparkline([value for _, value in finding.evidence]),
        "labels": dict(finding.labels),
    }


def _onset_step(alert: Alert) -> int | None:
    return alert.finding.onset_step if alert.place is None else alert.place.onset_step


def _values(finding: Finding) -> dict[str, float | str | None]:
    """The last value before the onset, the first from it on, and the last that was known when the alert fired."""
    onset = finding.onset_step
    known = [] if onset is None else [(step, value) for step, value in finding.evidence if step is not None]
    before = [value for step, value in known if onset is not None and step < onset]
    since = [value for step, value in known if onset is not None and step >= onset]
    return {
        "before": spell(before[-1]) if before else None,
        "at": spell(since[0] if since else finding.value),
        "after": spell(since[-1]) if len(since) > 1 else None,
    }


def _labels(members: Iterable[Alert], name: str) -> set[str]:
    return {value for member in members for label, value in member.finding.labels if label == name}
