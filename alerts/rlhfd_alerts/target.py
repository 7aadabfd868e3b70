"""Where notifications go."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """One configured destination. ``type`` names a receiver; URL and secrets stay out of the repr."""

    name: str
    type: str
    url: str = field(repr=False)  # may hold a token in its path, query or userinfo
    secrets: tuple[str, ...] = field(default=(), repr=False)  # newest first; several while keys rotate
    timeout_seconds: float = 15.0  # for one attempt, connection to status
