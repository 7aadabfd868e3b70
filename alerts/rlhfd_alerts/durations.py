"""Lengths of time as Alertmanager spells them: 30s, 5m, 4h, 1h30m, 2d."""

from __future__ import annotations

import re

__all__ = ["DURATION_PATTERN", "parse_duration", "spell_duration"]

_UNITS = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
DURATION_PATTERN = r"^(0|([0-9]{1,6}w)?([0-9]{1,6}d)?([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?([0-9]{1,6}ms)?)$"
_DURATION = re.compile(DURATION_PATTERN)
_PART = re.compile(r"([0-9]+)(ms|[wdhms])")


def parse_duration(text: str) -> float:
    """Return the seconds that ``text`` says. Raises ``ValueError`` with what would be right."""
    if not text or not _DURATION.match(text):
        raise ValueError(f"{text!r} is no duration: write 30s, 5m, 4h, 1h30m or 2d, larger units first")
    return sum((int(number) * _UNITS[unit] for number, unit in _PART.findall(text)), 0.0)


def spell_duration(seconds: float) -> str:
    """Return ``seconds``, rounded to whole ones, as :func:`parse_duration` reads it."""
    left, parts = round(seconds), []
    for unit in ("d", "h", "m", "s"):
        number, left = divmod(left, round(_UNITS[unit]))
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"
