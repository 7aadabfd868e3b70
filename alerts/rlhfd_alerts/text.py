"""Text for other people's screens: one line, no control characters, cut where they cannot be split."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

__all__ = ["clip", "clip_lines", "number", "one_line", "units"]

_ZERO_WIDTH_JOINER = "\u200d"


def one_line(text: object) -> str:
    """Return ``text`` in one line; control, format and unassigned characters (ANSI, bidi overrides) become spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def units(text: str) -> int:
    """Return the length in UTF-16 units, the largest count that a service could mean by characters."""
    return len(text.encode("utf-16-le", "replace")) // 2


def clip(text: str, limit: int) -> str:
    """Return at most ``limit`` UTF-16 units of ``text``; what is cut off is counted at the end ("… +120")."""
    if units(text) <= limit:
        return text
    note = f"… +{len(text)}"  # at least as long as the note that remains
    kept, room = 0, limit - units(note)
    for character in text:
        room -= units(character)
        if room < 0:
            break
        kept += 1
    while kept > 0 and _joins(text[kept]):
        kept -= 1
    return f"{text[:kept]}… +{len(text) - kept}" if limit >= units(note) else text[: max(kept, 0)]


def _joins(character: str) -> bool:
    """Whether ``character`` belongs to the one before it."""
    return bool(unicodedata.combining(character)) or unicodedata.category(character) in ("Mn", "Me", "Cf")


def clip_lines(lines: Iterable[str], limit: int, more: int = 0) -> str:
    """Return as many ``lines`` as fit into ``limit`` units, then "… and N more" for those that do not, and ``more``."""
    every = list(lines)
    for count in range(len(every), -1, -1):
        left = len(every) - count + more
        text = "\n".join([*every[:count], *([f"… and {left} more"] if left else [])])
        if units(text) <= limit:
            return text
    return ""


def number(value: object) -> str:
    """Return a value of a body for people: four digits; "NaN" and the like as they are; "?" for unknown."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:.4g}"
    return "?" if value is None else one_line(value)
