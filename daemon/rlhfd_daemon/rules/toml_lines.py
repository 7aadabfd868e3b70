"""On which line of a TOML text each key stands: the parser does not say, and a complaint without a line is no help."""

from __future__ import annotations

import re

__all__ = ["Place", "lines_of", "nearest_line"]

Place = tuple["str | int", ...]  # ("rule", 0, "and", 1, "metric")
_HEADER = re.compile(r"[ \t]*(\[\[?)([^\[\]\n]*)\]\]?")
_KEY = re.compile(r"""[ \t]*((?:"[^"\n]*"|'[^'\n]*'|[A-Za-z0-9_.\- \t])+?)[ \t]*=""")
_PART = re.compile(r""""([^"\n]*)"|'([^'\n]*)'|([A-Za-z0-9_-]+)""")
_STRINGS = (r'"""(?:\\.|[^\\])*?"""', r"'''.*?'''", r'"(?:\\.|[^"\\\n])*"', r"'[^'\n]*'")
_TOKEN = re.compile("|".join((*_STRINGS, r"#[^\n]*", r"[\[\]{}\n,]")), re.DOTALL)


def lines_of(text: str) -> dict[Place, int]:
    """The line of every table, key, and member of an array, from 1. ``text`` must be TOML; of anything else, some."""
    found: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    position = 0
    while position < len(text):
        line = text.count("\n", 0, position) + 1
        if header := _HEADER.match(text, position):
            table = _opened(_parts(header.group(2)), header.group(1) == "[[", counts)
            found.setdefault(table, line)
            position = header.end()
        elif key := _KEY.match(text, position):
            place = (*table, *_parts(key.group(1)))
            for depth in range(len(table) + 1, len(place) + 1):
                found.setdefault(place[:depth], line)
            position = _value(text, key.end(), place, found)
        position = _next_line(text, position)
    return found


def nearest_line(lines: dict[Place, int], place: Place) -> int:
    """The line of ``place``, or of the nearest thing around it that has one."""
    known = (lines.get(place[:depth], lines.get((*place[:depth], 0))) for depth in range(len(place), 0, -1))
    return next((line for line in known if line is not None), 1)


def _opened(parts: tuple[str, ...], is_array: bool, counts: dict[Place, int]) -> Place:
    """The table that a header opens: names are of the last member where they are arrays of tables."""
    place: Place = ()
    for depth, part in enumerate(parts, 1):
        place = (*place, part)
        if depth == len(parts) and is_array:
            counts[place] = counts.get(place, -1) + 1
        if place in counts:
            place = (*place, counts[place])
    return place


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(next(filter(None, found.groups()), "") for found in _PART.finditer(dotted))


def _value(text: str, position: int, place: Place, found: dict[Place, int]) -> int:
    """Pass over a value; note where the members of an array begin. The end of it."""
    open_brackets: list[str] = []
    member = 0
    while token := _TOKEN.search(text, position):
        position = token.end()
        one = token.group()
        if one == "\n" and not open_brackets:
            return token.start()
        if open_brackets == ["["] and one == ",":
            member += 1
        elif open_brackets == ["["] and one not in "\n]" and not one.startswith("#"):
            found.setdefault((*place, member), text.count("\n", 0, token.start()) + 1)
        if one in "[{":
            open_brackets.append(one)
        elif one in "]}" and open_brackets:
            open_brackets.pop()
    return len(text)


def _next_line(text: str, position: int) -> int:
    while token := _TOKEN.search(text, position):
        position = token.end()
        if token.group() == "\n":
            return position
    return len(text)
