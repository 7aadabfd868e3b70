"""Alertmanager's matchers: ``run="ppo-7"``, ``rule!="kl"``, ``metric=~"train/.*"``, ``role!~"critic|reward"``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from rlhfd_alerts.errors import MatcherError

__all__ = ["MAX_VALUE", "Matcher", "check_regex", "matches", "parse_matcher", "parse_matchers"]

MAX_PATTERN = 256
MAX_VALUE = 256
"""Regular expressions see so much of a label."""
MAX_REPEATS = 3
MAX_OPTIONAL = 8

_MATCHER = re.compile(r"\s*(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)\s*(?P<op>=~|!~|!=|=)\s*(?P<value>.*?)\s*", re.DOTALL)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BARE = re.compile(r"""[^\s{}!=~,\\"'`][^\s{},"'`]*""")
_ESCAPES = {"n": "\n", '"': '"', "\\": "\\"}
_HINT = 'write it like run="ppo-7", rule!="kl", metric=~"train/.*" or role!~"critic|reward"'


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on one label. A label that is absent counts as empty."""

    name: str
    op: str  # "=", "!=", "=~", "!~"
    value: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether ``labels`` meet the condition."""
        found = labels.get(self.name, "")
        if self.op in ("=", "!="):
            return (found == self.value) is (self.op == "=")
        return (_compiled(self.value).fullmatch(found[:MAX_VALUE]) is not None) is (self.op == "=~")

    def __str__(self) -> str:
        value = self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.name}{self.op}"{value}"'


def parse_matcher(text: str) -> Matcher:
    """Return the matcher that ``text`` spells. Raises :class:`MatcherError`, which names it and what to do."""
    found = _MATCHER.fullmatch(text)
    if found is None:
        raise MatcherError(f"{text!r} is no matcher: {_HINT}")
    name, op, value = found["name"], found["op"], _value(text, found["value"])
    if op in ("=~", "!~"):
        check_regex(value, text)
    return Matcher(name, op, value)


def parse_matchers(texts: Iterable[str]) -> tuple[Matcher, ...]:
    """Return the matchers that ``texts`` spell, one each. Raises :class:`MatcherError`."""
    return tuple(map(parse_matcher, texts))


def matches(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether ``labels`` meet all of ``matchers``; none is met by everything."""
    return all(matcher.matches(labels) for matcher in matchers)


def check_regex(pattern: str, text: str) -> None:
    """Raise :class:`MatcherError` for a pattern that is wrong, or whose worst case may take long.

    Python's expressions backtrack: a repetition in a repetition takes exponential time, k repetitions in a row take
    n^k. So at most 256 characters, three repetitions and eight optional parts, no repetition of a group that repeats
    or chooses, no back references and no look-around.
    """
    if len(pattern) > MAX_PATTERN:
        raise MatcherError(f"{text[:64]!r}...: the pattern is longer than {MAX_PATTERN} characters: split it up")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise MatcherError(f"{text!r}: not a regular expression: {error}") from error
    if fault := _costly(pattern):
        raise MatcherError(f"{text!r}: {fault}")


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _value(text: str, value: str) -> str:
    if _QUOTED.fullmatch(value):
        return re.sub(r"\\(.)", lambda one: _ESCAPES.get(one[1], "\\" + one[1]), value[1:-1], flags=re.DOTALL)
    if value and not _BARE.fullmatch(value):
        raise MatcherError(f"{text!r}: the value must stand in double quotes, as one matcher: {_HINT}")
    return value


def _costly(pattern: str) -> str | None:
    """What makes the worst case of a valid ``pattern`` slow; ``None`` if nothing does."""
    plain = re.sub(r"\\.", "x", re.sub(r"\\[1-9]", "\0", pattern), flags=re.DOTALL)
    plain = re.sub(r"\[\^?\]?[^\]]*\]", "x", plain)
    if "\0" in plain or re.search(r"\(\?(?!:)", plain):
        return "back references, look-around, flags and named groups are not allowed: use plain groups"
    repeats = optional = 0
    groups: list[bool] = []  # of each open group, whether it repeats or chooses
    closed = False  # the last thing was a group that does
    for place, char in enumerate(plain):
        if char == "(":
            groups.append(False)
        elif char == "?" and plain[place - 1] in "(*+}?":
            pass  # of "(?:", or a lazy repetition
        elif char in "*+{?":
            if closed and char != "?":
                return "a group that repeats or chooses must not be repeated"
            repeats, optional = repeats + (char != "?"), optional + (char == "?")
        if char in "*+{?|" and not (char == "?" and plain[place - 1] == "("):
            groups = [True] * len(groups)
        closed = bool(groups.pop()) if char == ")" and groups else False
    if repeats > MAX_REPEATS or optional > MAX_OPTIONAL:
        return f"at most {MAX_REPEATS} repetitions (*, +, {{}}) and {MAX_OPTIONAL} optional parts (?)"
    return None
