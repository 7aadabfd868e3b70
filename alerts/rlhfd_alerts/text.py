"""Text for other people's screens: one line, no control characters, cut where they cannot be split."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable

__all__ = ["clip", "clip_lines", "clip_spelled", "number", "one_line", "units"]

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


def clip_spelled(text: str, limit: int, spell: Callable[[str], str]) -> str:
    """Return as much of ``text`` as is at most ``limit`` units long after ``spell``, which escapes it."""
    whole = spell(clip(text, limit))
    if units(whole) <= limit:
        return whole
    fits, too_many, best = 0, limit, ""
    while too_many - fits > 1:
        room = (fits + too_many) // 2
        spelled = spell(clip(text, room))
        if units(spelled) <= limit:
            fits, best = room, spelled
        else:
            too_many = room
    return best


def _joins(character: str) -> bool:
    """Whether ``character`` belongs to the one before it."""
    return bool(unicodedata.combining(character)) or unicodedata.category(character) in ("Mn", "Me", "Cf")


def clip_lines(lines: Iterable[str], limit: int, more: int = 0) -> str:
    """Return as many ``lines`` as fit into ``limit`` units, then "… and N more" for those that do not, and ``more``."""
    every = list(lines)
    used = sum(units(line) + 1 for line in every)
    for count in range(len(every), -1, -1):
        left = len(every) - count + more
        note = f"… and {left} more" if left else ""
        if used + units(note) - (0 if note else 1) <= limit:
            return "\n".join([*every[:count], *([note] if note else [])])
        used -= units(every[count - 1]) + 1 if count else 0
    return ""


def number(value: object) -> str:
    """Return a value of a body for people: four digits; "NaN" and the like as they are; "?" for unknown."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:.4g}"
    return "?" if value is None else one_line(value)
