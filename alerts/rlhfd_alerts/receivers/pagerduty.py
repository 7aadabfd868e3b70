"""Sends events to PagerDuty (Events API v2): an episode is one incident, triggered and resolved under one key.

Limits: https://developer.pagerduty.com/docs/events-api-v2-overview (dedup_key 255, summary 1024, 512 kB in all).
"""

from __future__ import annotations

import json
from typing import Any

from rlhfd_alerts.channel import HttpChannel
from rlhfd_alerts.context import Context
from rlhfd_alerts.errors import SecretError
from rlhfd_alerts.message import Message, read
from rlhfd_alerts.target import HttpSettings, Target
from rlhfd_alerts.text import clip

__all__ = ["PagerDutyReceiver", "PagerDutySettings", "render"]

MAX_BYTES = 512_000
_KEY, _SUMMARY, _TEXT, _FACTS = 255, 1024, 2000, 50


class PagerDutySettings(HttpSettings, frozen=True, kw_only=True, tag="pagerduty"):
    """The secret is the integration key. ``url`` for another service region."""

    def default_url(self) -> str:
        """The service of the US region."""
        return "https://events.pagerduty.com/v2/enqueue"


class PagerDutyReceiver:
    """One integration of one service."""

    def __init__(self, target: Target[PagerDutySettings], context: Context) -> None:
        if not target.secrets:
            raise SecretError(f"target {target.name!r}: PagerDuty needs its integration key as the secret")
        self._key = target.secrets[0]
        self._channel = HttpChannel(target, context.sessions, context.version)
        self._context = context

    async def send(self, notification_id: str, body: bytes, now: float) -> str:
        """Trigger or resolve."""
        event = render(read(notification_id, body, self._context), self._key)
        content = json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")
        return await self._channel.post(content, {"content-type": "application/json"}, now)


def render(message: Message, routing_key: str) -> dict[str, Any]:
    """Return the event."""
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": "trigger" if message.is_firing else "resolve",
        "dedup_key": clip(message.subject, _KEY),
        "payload": {
            "summary": clip(f"{message.run}: {message.summary}", _SUMMARY),
            "source": clip(message.hosts[0] if message.hosts else message.run, _KEY),
            "severity": message.severity.value,
            "timestamp": message.time,
            "component": clip(message.run, _KEY),
            "group": clip(message.family, _KEY),
            "class": clip(message.rule, _KEY),
            "custom_details": _details(message),
        },
        "client": "rlhfd",
        "links": [{"href": link.url, "text": clip(link.title, _KEY)} for link in message.links if len(link.url) < 2000],
    }
    return event


def _details(message: Message) -> dict[str, Any]:
    facts = [clip(fact.line, _TEXT) for fact in message.facts[:_FACTS]]
    left = len(message.facts) - len(facts) + message.more
    details = {
        "what": clip(message.summary, _TEXT),
        "since": clip(message.since, _TEXT),
        "where": clip(message.where, _TEXT),
        "probable_first_cause": None if message.cause is None else clip(message.cause, _TEXT),
        "confidence": message.confidence,
        "evidence": facts + ([f"… and {left} more"] if left else []),
        "what_to_do": clip(message.remedy, _TEXT),
        "rule": clip(message.rule_url, _TEXT),
        "boot": clip(message.boot, _KEY),
        "notification": message.id,
    }
    return {name: value for name, value in details.items() if value not in (None, "", [])}
