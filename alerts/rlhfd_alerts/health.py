"""How a target fares: what was delivered, since when it fails, whether it wants nothing more; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["DEGRADED_SECONDS", "Health"]

DEGRADED_SECONDS = 300.0
"""A target that fails for longer is worth an alert through the others."""


@dataclass(frozen=True, slots=True)
class Health:
    """Since start. ``failed`` counts attempts, ``dead`` notifications given up, ``skipped`` those that the target is
    not to be told. ``failing_since`` and ``disabled_at`` are unix seconds, ``None`` if all is well."""

    delivered: int = 0
    failed: int = 0
    dead: int = 0
    skipped: int = 0
    last_error: str | None = None
    failing_since: float | None = None
    answers: bool = False  # to the last attempt with a yes
    disabled_at: float | None = None

    def accepted(self, count: int) -> Health:
        """The target took ``count`` notifications."""
        return replace(self, delivered=self.delivered + count, last_error=None, failing_since=None, answers=True)

    def failure(self, error: str, now: float) -> Health:
        """An attempt failed that is worth another."""
        since = now if self.failing_since is None else self.failing_since
        return replace(self, failed=self.failed + 1, last_error=error, failing_since=since, answers=False)

    def refusal(self, error: str, count: int) -> Health:
        """The target refused ``count`` notifications for good: so somebody is there."""
        return replace(
            self, failed=self.failed + 1, dead=self.dead + count, last_error=error, failing_since=None, answers=False
        )

    def disabled(self, error: str, now: float) -> Health:
        """The target wants nothing more."""
        return replace(self, failed=self.failed + 1, last_error=error, disabled_at=now, answers=False)

    def enabled(self) -> Health:
        """Somebody says that it is to be tried again."""
        return replace(self, disabled_at=None, failing_since=None)

    def degraded_seconds(self, now: float) -> float | None:
        """For how long it has been out of service, ``None`` if it is not or not for long enough to matter."""
        if self.disabled_at is not None:
            return max(now - self.disabled_at, 0.0)
        if self.failing_since is None or now - self.failing_since < DEGRADED_SECONDS:
            return None
        return now - self.failing_since
