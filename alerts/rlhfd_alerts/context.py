"""What receivers share and cannot know by themselves: whose messages these are, where things are to be seen."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhfd_alerts.channel import Sessions

__all__ = ["Context", "Links"]


@dataclass(frozen=True, slots=True)
class Links:
    """URL templates: ``dashboard`` may name {run}, {boot}, {rule}, {severity} and {host}; ``rules`` is the page of the
    rules. Empty: no link."""

    dashboard: str = ""
    rules: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """``version`` is rlhfd's own, ``host`` where the daemon runs. The sessions are closed by who made this."""

    version: str = "unknown"
    host: str = ""
    links: Links = Links()
    sessions: Sessions = field(default_factory=Sessions)
