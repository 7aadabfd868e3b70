"""Bodies of one's own for webhooks: ``{name}`` stands for a value of the message, and nothing is evaluated."""

from __future__ import annotations

import json
import string
from collections.abc import Callable

from rlhfd_alerts.message import Message

__all__ = ["NAMES", "fill", "template_fault"]

NAMES: dict[str, Callable[[Message], object]] = {
    "id": lambda message: message.id,
    "episode": lambda message: message.subject,
    "title": lambda message: message.title,
    "status": lambda message: message.status,
    "state": lambda message: "firing" if message.is_firing else "resolved",
    "severity": lambda message: message.severity.value,
    "run": lambda message: message.run,
    "boot": lambda message: message.boot,
    "rule": lambda message: message.rule,
    "family": lambda message: message.family,
    "summary": lambda message: message.summary,
    "remedy": lambda message: message.remedy,
    "cause": lambda message: message.cause or "",
    "time": lambda message: message.time,
    "step": lambda message: "" if message.step is None else message.step,
    "since": lambda message: message.since,
    "where": lambda message: message.where,
    "host": lambda message: " ".join(message.hosts),
    "evidence": lambda message: "\n".join(fact.line for fact in message.facts),
    "link": lambda message: message.links[0].url if message.links else "",
}


def template_fault(template: str) -> str | None:
    """Return what is wrong with ``template``, ``None`` if nothing is."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        return f"cannot be read ({error}); a brace itself is {{{{ or }}}}"
    for _, name, spec, conversion in parts:
        if name is not None and (name not in NAMES or spec or conversion):
            return f"may hold {', '.join(f'{{{known}}}' for known in NAMES)}; a brace itself is {{{{ or }}}}"
    return None


def fill(template: str, message: Message, is_json: bool) -> bytes:
    """Return ``template`` with the values of ``message``, escaped for the inside of a JSON string if it ``is_json``."""
    parts = []
    for text, name, _, _ in string.Formatter().parse(template):
        parts.append(text)
        if name is not None:
            value = str(NAMES[name](message))
            parts.append(json.dumps(value, ensure_ascii=False)[1:-1] if is_json else value)
    return "".join(parts).encode("utf-8", "replace")
