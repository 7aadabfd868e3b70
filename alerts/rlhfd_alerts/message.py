"""A notification as receivers read it: the canonical body as typed values, cleaned for people's screens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from rlhfd_alerts.context import Context, Links
from rlhfd_alerts.errors import DeliveryError
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.text import number, one_line

__all__ = ["Fact", "Link", "Message", "order", "read"]

_Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fact:
    """One alert of the message: what is seen of one metric, where, since when. Times are RFC 3339."""

    fingerprint: str
    rule: str
    metric: str
    severity: Severity
    is_firing: bool
    onset_step: int | None
    onset_time: str
    ended_step: int | None
    course: str  # values before, at and after the onset: "0.05 → 0.75"
    sparkline: str
    where: str  # "actor rank 0"
    labels: tuple[tuple[str, str], ...]

    @property
    def line(self) -> str:
        """The fact in one line."""
        since = "" if self.onset_step is None else f"since step {self.onset_step}"
        until = "" if self.ended_step is None else f"until step {self.ended_step}"
        parts = (self.metric, self.sparkline, self.course, since, until, self.where and f"({self.where})")
        return "  ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Link:
    """Where to look further."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be told. ``subject`` stays the same from the first message about an episode to the last; ``facts`` are
    at least one, first cause first; ``more`` are not among them. Steps and times are ``None`` where unknown."""

    id: str
    subject: str
    run: str
    boot: str
    severity: Severity
    is_firing: bool
    time: str
    rule: str
    rule_url: str
    family: str
    summary: str
    remedy: str
    step: int | None
    since_step: int | None
    since_time: str | None
    ended_step: int | None
    ended_time: str | None
    facts: tuple[Fact, ...]
    more: int
    cause: str | None  # the probable first cause, where that is not what the message is headed by
    confidence: float | None
    roles: tuple[str, ...]
    ranks: tuple[str, ...]
    hosts: tuple[str, ...]
    links: tuple[Link, ...]

    @property
    def status(self) -> str:
        """``CRITICAL``, ``WARNING``, ``INFO`` or ``RESOLVED``."""
        return self.severity.value.upper() if self.is_firing else "RESOLVED"

    @property
    def title(self) -> str:
        """Who and what, in one line."""
        return f"{self.status} {self.run}: {self.summary}"

    @property
    def since(self) -> str:
        """Since when, and until when."""
        text = _moment(self.since_step, self.since_time)
        return text if self.is_firing else f"{text}, over {_moment(self.ended_step, self.ended_time)}"

    @property
    def where(self) -> str:
        """Host, roles and ranks."""
        named = (("", self.hosts), ("", self.roles), ("rank ", self.ranks))
        return ", ".join(prefix + " ".join(values) for prefix, values in named if values)


def order(message: Message) -> tuple[bool, int]:
    """Sort key: what is worst and firing comes first."""
    return not message.is_firing, -message.severity.rank


def read(notification_id: str, body: bytes, context: Context) -> Message:
    """Return the message in a body that :func:`rlhfd_alerts.content.body` made.

    Raises :class:`DeliveryError`, permanent, if it is none.
    """
    try:
        content = json.loads(body)
        return _message(notification_id, content, content["data"], context)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeliveryError(f"the notification cannot be read: {type(error).__name__}", permanent=True) from error


def _message(notification_id: str, content: _Fields, data: _Fields, context: Context) -> Message:
    episode: _Fields = data.get("episode") or {}
    alerts: list[_Fields] = data["alerts"]
    members: list[_Fields] = episode.get("members") or alerts
    facts = tuple(_fact(member) for member in members)
    hosts = _labelled(members, "host") or ((context.host,) if context.host else ())
    rule, run = one_line(data["rule"]), one_line(data["run"])
    cause: _Fields = episode.get("cause") or {}
    first = alerts[0] if alerts else {}
    names = {"run": run, "boot": data["boot"], "rule": rule, "severity": data["severity"], "host": " ".join(hosts)}
    return Message(
        id=notification_id,
        subject=one_line(episode.get("id") or _subject(data)),
        run=run,
        boot=one_line(data["boot"]),
        severity=Severity(data["severity"]),
        is_firing=data["state"] == "firing",
        time=content["timestamp"],
        rule=rule,
        rule_url=one_line(data.get("rule_url") or ""),
        family=one_line(data["family"]),
        summary=one_line(data["summary"]),
        remedy=one_line(data["remedy"]),
        step=data["step"],
        since_step=cause.get("onset_step") if episode else first.get("onset_step"),
        since_time=episode.get("opened_at") or first.get("starts_at"),
        ended_step=episode.get("ended_step") if episode else first.get("step"),
        ended_time=episode.get("ended_at") if episode else first.get("ends_at"),
        facts=facts,
        more=int(episode.get("more") or 0),
        cause=one_line(cause["summary"]) if cause and cause["rule"] != data["rule"] else None,
        confidence=episode.get("confidence"),
        roles=tuple(map(one_line, episode.get("roles") or ())) or _labelled(members, "role"),
        ranks=tuple(map(one_line, episode.get("ranks") or ())) or _labelled(members, "rank"),
        hosts=hosts,
        links=_links(context.links, names),
    )


def _fact(alert: _Fields) -> Fact:
    labels = {one_line(name): one_line(value) for name, value in alert["labels"].items()}
    values: _Fields = alert.get("values") or {"before": alert.get("baseline"), "at": alert.get("value")}
    known = [number(value) for name in ("before", "at", "after") if (value := values.get(name)) is not None]
    named = (labels.get("role"), labels.get("rank") and f"rank {labels['rank']}", labels.get("host"))
    return Fact(
        fingerprint=alert["fingerprint"],
        rule=one_line(alert["rule"]),
        metric=one_line(alert["metric"]),
        severity=Severity(alert["severity"]),
        is_firing=alert["state"] == "firing" if "state" in alert else alert["ends_at"] is None,
        onset_step=alert["onset_step"],
        onset_time=alert["onset_time"],
        ended_step=alert.get("ended_step"),
        course=" → ".join(known),
        sparkline=one_line(alert["sparkline"]),
        where=" ".join(part for part in named if part),
        labels=tuple(labels.items()),
    )


def _labelled(alerts: Iterable[_Fields], name: str) -> tuple[str, ...]:
    found = {one_line(alert["labels"][name]) for alert in alerts if name in alert["labels"]}
    return tuple(sorted(found, key=lambda value: (len(value), value)))


def _subject(data: _Fields) -> str:
    """Of alerts without an episode: run, launch and rule."""
    parts = "\0".join(str(data[name]) for name in ("run", "boot", "rule"))
    return "al_" + hashlib.sha256(parts.encode("utf-8", "replace")).hexdigest()[:16]


def _links(links: Links, names: Mapping[str, str]) -> tuple[Link, ...]:
    quoted = {name: quote(str(value), safe="") for name, value in names.items()}
    found = []
    if links.dashboard:
        found.append(Link("Dashboard", links.dashboard.format_map(quoted)))
    if links.rules:
        found.append(Link(f"Rule {names['rule']}", f"{links.rules}#{quoted['rule']}"))
    return tuple(found)


def _moment(step: int | None, time: str | None) -> str:
    clock = "" if time is None else f"{time[:19].replace('T', ' ')} UTC"
    parts = ["" if step is None else f"step {step}", f"({clock})" if step is not None and clock else clock]
    return " ".join(part for part in parts if part) or "unknown"
