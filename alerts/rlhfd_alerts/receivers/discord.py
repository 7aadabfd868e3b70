"""Posts to a Discord webhook: one embed within its limits, one digest for a burst.

Limits: https://discord.com/developers/docs/resources/message#embed-object-embed-limits (title 256, description 4096,
25 fields of 1024, 6000 in all). Rate limits: 429 with ``retry_after`` in JSON, in seconds with decimals.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from msgspec import Meta

from rlhfd_alerts.channel import Answer, HttpChannel
from rlhfd_alerts.context import Context
from rlhfd_alerts.errors import DeliveryError
from rlhfd_alerts.message import Message, order, read
from rlhfd_alerts.retry import HORIZON_SECONDS
from rlhfd_alerts.target import HttpSettings, Target
from rlhfd_alerts.text import clip, clip_lines, clip_spelled, units

__all__ = ["DiscordReceiver", "DiscordSettings", "escape", "render", "render_digest"]

_TITLE, _DESCRIPTION, _FIELD, _SHORT = 256, 1500, 1000, 300
_EVIDENCE, _DIGEST, _LINE, _FACTS, _LINES = 900, 4000, 300, 10, 100
_COLOURS = {"CRITICAL": 0xD32F2F, "WARNING": 0xF57C00, "INFO": 0x1976D2, "RESOLVED": 0x388E3C}
_SIGNS = {"CRITICAL": "🔴", "WARNING": "🟠", "INFO": "🔵", "RESOLVED": "✅"}
_MARKDOWN = re.compile(r"([\\*_~`|>#\[\]()<@:\-+.!])")


class DiscordSettings(HttpSettings, frozen=True, kw_only=True, tag="discord"):
    """The URL is the credential."""

    interval_seconds: Annotated[float, Meta(ge=0.5, le=3600)] = 1.0


class DiscordReceiver:
    """One webhook of a channel."""

    def __init__(self, target: Target[DiscordSettings], context: Context) -> None:
        self._channel = HttpChannel(target, context.sessions, context.version)
        self._context = context

    async def send(self, notification_id: str, body: bytes, now: float) -> str:
        """Post one message."""
        return await self._post(render(read(notification_id, body, self._context)), now)

    async def send_digest(self, notifications: Sequence[tuple[str, bytes]], now: float) -> str:
        """Post many as one message."""
        return await self._post(render_digest([read(one, body, self._context) for one, body in notifications]), now)

    async def _post(self, payload: dict[str, Any], now: float) -> str:
        content = json.dumps(payload, ensure_ascii=False).encode("utf-8", "replace")
        answer = await self._channel.exchange(content, {"content-type": "application/json"})
        failure = self._channel.failure(answer, now)
        if failure is not None:
            asked = _retry_after(answer)
            raise failure if asked is None else DeliveryError(str(failure), permanent=False, retry_after=asked)
        return self._channel.excerpt(answer)


def render(message: Message) -> dict[str, Any]:
    """Return the payload of one message."""
    embed = {
        "title": escape(f"{message.status} · {message.run} · {message.rule}", _TITLE),
        "description": escape(message.summary, _DESCRIPTION),
        "color": _COLOURS[message.status],
        "timestamp": message.time,
        "fields": [{"name": name, "value": value or "–", "inline": inline} for name, value, inline in _fields(message)],
        "footer": {"text": clip(f"rlhfd · {message.subject}", _SHORT)},
    }
    if message.links:
        embed["url"] = clip(message.links[0].url, 2000) if units(message.links[0].url) <= 2000 else None
    return _payload({name: value for name, value in embed.items() if value is not None})


def render_digest(messages: Sequence[Message]) -> dict[str, Any]:
    """Return the payload that tells of all ``messages``, critical ones first."""
    ranked = sorted(messages, key=order)
    counts = [f"{n} {name.lower()}" for name in _SIGNS if (n := sum(one.status == name for one in ranked))]
    lines = [
        f"{_SIGNS[one.status]} **{escape(one.run, _LINE)}** {escape(one.summary, _LINE)}" for one in ranked[:_LINES]
    ]
    return _payload(
        {
            "title": f"{len(ranked)} messages: {', '.join(counts)}",
            "description": clip_lines(lines, _DIGEST, len(ranked) - len(lines)),
            "color": _COLOURS[ranked[0].status],
            "timestamp": ranked[0].time,
        }
    )


def escape(text: str, limit: int) -> str:
    """Return ``text`` in at most ``limit`` characters, its markdown and mentions disarmed."""
    return clip_spelled(text, limit, lambda clipped: _MARKDOWN.sub(r"\\\1", clipped))


def _fields(message: Message) -> Iterator[tuple[str, str, bool]]:
    yield "Since", escape(message.since, _SHORT), True
    if message.where:
        yield "Where", escape(message.where, _SHORT), True
    if message.cause is not None:
        yield "Probable first cause", escape(message.cause, _SHORT), False
    lines = [clip(fact.line.replace("`", "ˋ"), _LINE) for fact in message.facts[:_FACTS]]
    if lines:
        evidence = clip_lines(lines, _EVIDENCE, len(message.facts) - len(lines) + message.more)
        yield "Evidence", f"```\n{evidence}\n```", False
    if message.remedy and message.is_firing:
        yield "What to do", escape(message.remedy, _FIELD), False
    shown = [f"[{escape(one.title, _SHORT)}]({one.url.replace(')', '%29')})" for one in message.links]
    links = clip_lines(shown, _FIELD) or escape(message.rule_url, _SHORT)
    if links:
        yield "Links", links, False


def _payload(embed: dict[str, Any]) -> dict[str, Any]:
    return {"embeds": [embed], "allowed_mentions": {"parse": []}}


def _retry_after(answer: Answer) -> float | None:
    if answer.status != 429:
        return None
    try:
        seconds = float(json.loads(answer.text)["retry_after"])
    except (ValueError, KeyError, TypeError):
        return None
    return min(max(seconds, 0.0), HORIZON_SECONDS) if math.isfinite(seconds) else None
