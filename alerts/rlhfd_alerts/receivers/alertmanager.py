"""Hands alerts to an Alertmanager (API v2), again and again as long as they fire: it forgets what it does not hear of.

https://prometheus.io/docs/alerting/latest/clients: resend firing alerts well within ``resolve_timeout``, resolved ones
for some minutes.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from msgspec import Meta

from rlhfd_alerts.canonical import timestamp
from rlhfd_alerts.channel import HttpChannel
from rlhfd_alerts.context import Context
from rlhfd_alerts.message import Fact, Message, read
from rlhfd_alerts.target import HttpSettings, Target
from rlhfd_alerts.text import clip

__all__ = ["AlertmanagerReceiver", "AlertmanagerSettings", "Held", "held", "rendered"]

_RESOLVED_SECONDS = 300.0
_MAX_HELD = 5000
_MAX_POST = 500
_LABEL, _ANNOTATION = 500, 2000
_NAME = re.compile(r"^(?=[0-9])|[^a-zA-Z0-9_]")


class AlertmanagerSettings(HttpSettings, frozen=True, kw_only=True, tag="alertmanager"):
    """``url`` is that of its web interface. A secret is a bearer token, with ``username`` a password."""

    allow_private: bool = True
    username: str = ""
    resend_seconds: Annotated[float, Meta(ge=1, le=240)] = 60.0


@dataclass(frozen=True, slots=True)
class Held:
    """One alert as Alertmanager knows it. ``ends_at`` (unix seconds) is ``None`` as long as it fires."""

    labels: tuple[tuple[str, str], ...]
    annotations: tuple[tuple[str, str], ...]
    starts_at: str
    ends_at: float | None
    generator_url: str
    subject: str


class AlertmanagerReceiver:
    """One Alertmanager. Implements :class:`~rlhfd_alerts.receivers.Resending`."""

    def __init__(self, target: Target[AlertmanagerSettings], context: Context) -> None:
        self._channel = HttpChannel(target, context.sessions, context.version, path="/api/v2/alerts")
        self._context = context
        self._headers = {"content-type": "application/json", **_authorization(target)}
        self._held: dict[tuple[tuple[str, str], ...], Held] = {}
        self.resend_seconds = target.settings.resend_seconds

    async def send(self, notification_id: str, body: bytes, now: float) -> str:
        """Post the alerts of one message."""
        return await self.send_digest([(notification_id, body)], now)

    async def send_digest(self, notifications: Sequence[tuple[str, bytes]], now: float) -> str:
        """Post the alerts of many messages."""
        changed: dict[tuple[tuple[str, str], ...], Held] = {}
        for identity, body in notifications:
            for one in self._told(read(identity, body, self._context), now):
                changed[one.labels] = one
        said = await self._post(changed.values(), now)
        self._keep(changed.values())
        return said

    def recall(self, notifications: Iterable[tuple[str, bytes]], now: float) -> None:
        """Take up after a restart: what was delivered before, oldest first."""
        for identity, body in notifications:
            self._keep(list(self._told(read(identity, body, self._context), now)))

    async def resend(self, now: float) -> None:
        """Tell of what fires, and of what was over lately, once more."""
        self._held = {
            key: one
            for key, one in self._held.items()
            if one.ends_at is None or now - one.ends_at < _RESOLVED_SECONDS + self.resend_seconds
        }
        await self._post(self._held.values(), now)

    def _told(self, message: Message, now: float) -> Iterable[Held]:
        """What ``message`` changes: its alerts, and what of the same subject is over by it."""
        current = held(message, now)
        labels = {one.labels for one in current}
        for one in [one for one in self._held.values() if one.subject == message.subject]:
            if one.ends_at is None and one.labels not in labels and (not message.is_firing or not message.more):
                yield replace(one, ends_at=now)
        yield from current

    def _keep(self, changed: Iterable[Held]) -> None:
        for one in changed:
            self._held.pop(one.labels, None)
            self._held[one.labels] = one
        while len(self._held) > _MAX_HELD:
            self._held.pop(next(iter(self._held)))

    async def _post(self, alerts: Iterable[Held], now: float) -> str:
        every, said = list(alerts), ""
        for start in range(0, len(every), _MAX_POST):
            content = [rendered(one, now, self.resend_seconds) for one in every[start : start + _MAX_POST]]
            payload = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
            said = await self._channel.post(payload, self._headers, now)
        return said


def held(message: Message, now: float) -> list[Held]:
    """Return the alerts that ``message`` tells of."""
    generator = message.links[0].url if message.links else ""
    return [
        Held(
            labels=_labels(message, fact),
            annotations=_annotations(message, fact),
            starts_at=fact.onset_time,
            ends_at=None if fact.is_firing and message.is_firing else now,
            generator_url=generator,
            subject=message.subject,
        )
        for fact in message.facts
    ]


def _labels(message: Message, fact: Fact) -> tuple[tuple[str, str], ...]:
    known = {
        **{_NAME.sub("_", name): value for name, value in fact.labels},
        "alertname": fact.rule,
        "run": message.run,
        "boot": message.boot,
        "metric": fact.metric,
        "severity": fact.severity.value,
        "family": message.family,
        "episode": message.subject,
        "fingerprint": fact.fingerprint,
        "job": "rlhfd",
    }
    if "host" not in known and message.hosts:
        known["host"] = message.hosts[0]
    return tuple(sorted((name, clip(value, _LABEL)) for name, value in known.items() if name and value))


def _annotations(message: Message, fact: Fact) -> tuple[tuple[str, str], ...]:
    known = {
        "summary": message.summary,
        "evidence": fact.line,
        "since": message.since,
        "remedy": message.remedy,
        "cause": message.cause or "",
        "rule": message.rule_url,
        **{f"link_{number}": link.url for number, link in enumerate(message.links, 1)},
    }
    return tuple((name, clip(value, _ANNOTATION)) for name, value in known.items() if value)


def rendered(one: Held, now: float, resend_seconds: float) -> dict[str, Any]:
    """Return what is posted of one alert."""
    # As Prometheus does: it ends by itself if four rounds in a row are not heard.
    ends_at = now + 4 * resend_seconds if one.ends_at is None else one.ends_at
    return {
        "labels": dict(one.labels),
        "annotations": dict(one.annotations),
        "startsAt": min(one.starts_at, timestamp(ends_at)),
        "endsAt": timestamp(ends_at),
        **({"generatorURL": one.generator_url} if one.generator_url else {}),
    }


def _authorization(target: Target[AlertmanagerSettings]) -> dict[str, str]:
    if not target.secrets:
        return {}
    if target.settings.username:
        pair = f"{target.settings.username}:{target.secrets[0]}"
        return {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    return {"authorization": f"Bearer {target.secrets[0]}"}
