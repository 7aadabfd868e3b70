"""A message as plain text (mail, Apprise, the terminal) and as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence

from rlhfd_alerts.message import Message
from rlhfd_alerts.text import clip, clip_lines

__all__ = ["digest_html", "digest_text", "html_of", "text_of"]

_TEXT, _EVIDENCE, _DIGEST, _LINE, _FACTS, _LINES = 2000, 6000, 20_000, 500, 30, 200


def text_of(message: Message) -> str:
    """Return ``message`` in lines of text."""
    paragraphs = [clip(message.summary, _TEXT), *(f"{name}: {value}" for name, value in _rows(message))]
    return "\n".join([*paragraphs, "", _evidence(message), ""])


def html_of(message: Message) -> str:
    """Return ``message`` as a small page without images or scripts."""
    rows = "".join(f"<tr><th align=left>{_h(name)}</th><td>{_h(value)}</td></tr>" for name, value in _rows(message))
    links = "".join(f'<p><a href="{_h(link.url)}">{_h(link.title)}</a></p>' for link in message.links)
    return (
        f"<html><body><h3>{_h(clip(message.title, _TEXT))}</h3><table>{rows}</table>"
        f"<pre>{_h(_evidence(message))}</pre>{links}</body></html>"
    )


def digest_text(messages: Sequence[Message]) -> str:
    """Return a line for each of ``messages``, in their order."""
    lines = [clip(message.title, _LINE) for message in messages[:_LINES]]
    return clip_lines(lines, _DIGEST, len(messages) - len(lines)) + "\n"


def digest_html(messages: Sequence[Message]) -> str:
    """Return :func:`digest_text` as a page."""
    return f"<html><body><pre>{_h(digest_text(messages))}</pre></body></html>"


def _rows(message: Message) -> Iterator[tuple[str, str]]:
    yield "Run", clip(message.run, _LINE)
    yield "Since", clip(message.since, _LINE)
    if message.where:
        yield "Where", clip(message.where, _LINE)
    if message.cause is not None:
        yield "Probable first cause", clip(message.cause, _TEXT)
    if message.remedy and message.is_firing:
        yield "What to do", clip(message.remedy, _TEXT)
    for link in message.links:
        yield link.title, link.url
    if message.rule_url and not message.links:
        yield "Rule", message.rule_url


def _evidence(message: Message) -> str:
    lines: Iterable[str] = [clip(fact.line, _LINE) for fact in message.facts[:_FACTS]]
    return clip_lines(lines, _EVIDENCE, max(0, len(message.facts) - _FACTS) + message.more)


def _h(text: str) -> str:
    return html.escape(text)
