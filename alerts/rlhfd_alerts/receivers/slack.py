"""Posts to a Slack incoming webhook: Block Kit within its limits, one digest for a burst.

Limits: https://docs.slack.dev/reference/block-kit/blocks (50 blocks, 3000 characters in a section, 10 fields of 2000,
150 in a header), about 13,200 characters in all (slackapi/bolt-js#2509), one message a second and webhook.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import quote

from msgspec import Meta

from rlhfd_alerts.channel import HttpChannel
from rlhfd_alerts.context import Context
from rlhfd_alerts.errors import DeliveryError
from rlhfd_alerts.message import Link, Message, order, read
from rlhfd_alerts.target import HttpSettings, Target
from rlhfd_alerts.text import clip, clip_lines, clip_spelled, units

__all__ = ["SlackReceiver", "SlackSettings", "escape", "render", "render_digest"]

Block = dict[str, Any]
_HEADER, _FIELD, _LINE, _SECTION = 150, 300, 400, 2900
_SUMMARY, _EVIDENCE, _REMEDY, _LINKS, _DIGEST = 1500, 2500, 2000, 1500, 8000
_FACTS, _LINES = 10, 100
_IN_URL = ":/?#[]@!$&'()*+,;=%~"
_SIGNS = {"CRITICAL": "🔴", "WARNING": "🟠", "INFO": "🔵", "RESOLVED": "✅"}


class SlackSettings(HttpSettings, frozen=True, kw_only=True, tag="slack"):
    """The URL is the credential. ``mention`` is put before what is critical and fires."""

    interval_seconds: Annotated[float, Meta(ge=1, le=3600)] = 1.0
    mention: Literal["", "channel", "here"] = ""


class SlackReceiver:
    """One incoming webhook."""

    def __init__(self, target: Target[SlackSettings], context: Context) -> None:
        self._channel = HttpChannel(target, context.sessions, context.version)
        self._context = context
        self._mention = target.settings.mention

    async def send(self, notification_id: str, body: bytes, now: float) -> str:
        """Post one message."""
        return await self._post(render(read(notification_id, body, self._context), self._mention), now)

    async def send_digest(self, notifications: Sequence[tuple[str, bytes]], now: float) -> str:
        """Post many as one message."""
        messages = [read(identity, body, self._context) for identity, body in notifications]
        return await self._post(render_digest(messages, self._mention), now)

    async def _post(self, payload: Block, now: float) -> str:
        content = json.dumps(payload, ensure_ascii=False).encode("utf-8", "replace")
        answer = await self._channel.exchange(content, {"content-type": "application/json; charset=utf-8"})
        failure = self._channel.failure(answer, now)
        if failure is None and answer.text.strip() not in ("ok", ""):
            error = DeliveryError("", permanent=True)
            failure = self._channel.refused(f"HTTP {answer.status}, but not accepted", answer, error)
        if failure is not None:
            raise failure
        return self._channel.excerpt(answer)


def render(message: Message, mention: str = "") -> Block:
    """Return the payload of one message."""
    blocks = [_header(f"{message.status} · {message.run} · {message.rule}", message.status)]
    call = _call([message], mention)
    if call:
        blocks.append(_section(call))
    blocks.append(_plain(clip(message.summary, _SUMMARY)))
    blocks.append({"type": "section", "fields": [_mrkdwn(field) for field in _fields(message)]})
    lines = [_entities(fact.line.replace("`", "ˋ"), _LINE) for fact in message.facts[:_FACTS]]
    left = len(message.facts) - len(lines) + message.more
    if lines:
        blocks.append(_section(f"```{clip_lines(lines, _EVIDENCE, left)}```"))
    if message.remedy and message.is_firing:
        blocks.append(_plain(clip(f"What to do: {message.remedy}", _REMEDY)))
    links = _links(message.links, message.rule_url)
    if links:
        blocks.append(_section(links))
    return {"text": _fallback(message.title, call), "blocks": blocks}


def render_digest(messages: Sequence[Message], mention: str = "") -> Block:
    """Return the payload that tells of all ``messages``, critical ones first."""
    ranked = sorted(messages, key=order)
    counts = [f"{n} {name}" for name in _SIGNS if (n := sum(one.status == name for one in ranked))]
    title = f"{len(ranked)} messages: {', '.join(counts)}".lower()
    lines = [f"{_SIGNS[one.status]} {_code(one.run)} {escape(one.summary, _LINE)}" for one in ranked[:_LINES]]
    call = _call(ranked, mention)
    blocks = [_header(title, ranked[0].status), *([_section(call)] if call else [])]
    blocks += [_section(text) for text in _pages(clip_lines(lines, _DIGEST, len(ranked) - len(lines)).split("\n"))]
    return {"text": _fallback(title, call), "blocks": blocks}


def escape(text: str, limit: int) -> str:
    """Return ``text`` for mrkdwn, in at most ``limit`` characters: no mention, link or formatting comes out of it."""
    return clip_spelled(text, limit, _escaped)


def _entities(text: str, limit: int) -> str:
    """As :func:`escape`, for inside of a code span, where nothing is formatted."""
    return clip_spelled(text, limit, lambda clipped: html.escape(clipped, quote=False))


def _escaped(text: str) -> str:
    # Formatting has no escape; a word joiner (no width) before the sign keeps it from being one.
    marked = (f"\u2060{c}" if c in "*_~`" and not _inside(text, i) else c for i, c in enumerate(text))
    return html.escape("".join(marked), quote=False)


def _inside(text: str, index: int) -> bool:
    """Whether a sign stands within a word, where it formats nothing and should be copied as it is."""
    return text[index] != "`" and text[index - 1 : index].isalnum() and text[index + 1 : index + 2].isalnum()


def _fields(message: Message) -> Iterable[str]:
    yield f"*Run*\n{_code(message.run)}"
    yield f"*Since*\n{escape(message.since, _FIELD)}"
    if message.where:
        yield f"*Where*\n{escape(message.where, _FIELD)}"
    if message.cause is not None:
        yield f"*Probable first cause*\n{escape(message.cause, _FIELD)}"
    if message.confidence is not None:
        yield f"*Confidence*\n{message.confidence:.0%}"


def _links(links: Sequence[Link], rule_url: str) -> str:
    shown = [f"<{_entities(quote(link.url, safe=_IN_URL), _LINKS)}|{escape(link.title, _HEADER)}>" for link in links]
    return clip_lines(shown or ([_code(rule_url)] if rule_url else []), _LINKS)


def _call(messages: Sequence[Message], mention: str) -> str:
    return f"<!{mention}>" if mention and any(one.status == "CRITICAL" for one in messages) else ""


def _code(text: str) -> str:
    return f"`{_entities(text.replace('`', 'ˋ'), _FIELD - 20)}`"


def _fallback(title: str, call: str) -> str:
    """What a phone's notification shows."""
    return f"{call} {escape(title, _SUMMARY)}".strip()


def _header(text: str, status: str) -> Block:
    title = clip(f"{_SIGNS[status]} {text}", _HEADER)
    return {"type": "header", "text": {"type": "plain_text", "text": title, "emoji": False}}


def _section(text: str) -> Block:
    return {"type": "section", "text": _mrkdwn(text)}


def _plain(text: str) -> Block:
    return {"type": "section", "text": {"type": "plain_text", "text": text or "–", "emoji": False}}


def _mrkdwn(text: str) -> Block:
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _pages(lines: Iterable[str]) -> Iterable[str]:
    page: list[str] = []
    for line in lines:
        if page and units("\n".join([*page, line])) > _SECTION:
            yield "\n".join(page)
            page = []
        page.append(line)
    if page:
        yield "\n".join(page)
