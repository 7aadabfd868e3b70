"""Every error this package raises; foreign exceptions are converted into these at the border."""

from __future__ import annotations

__all__ = [
    "AlertsError",
    "DeliveryError",
    "MatcherError",
    "OutboxError",
    "RoutingError",
    "SecretError",
    "TargetError",
]


class AlertsError(Exception):
    """The root: catching it catches whatever this package raises on purpose."""


class OutboxError(AlertsError):
    """The outbox file could not be opened, read or written; the message names the file and the cause."""


class SecretError(AlertsError):
    """A webhook secret is malformed; the message never repeats it."""


class TargetError(AlertsError):
    """A target cannot be used as configured: unknown type, unusable URL."""


class MatcherError(AlertsError):
    """A matcher cannot be read, or its regular expression could take too long; the message names it and the fix."""


class RoutingError(AlertsError):
    """Routes, mute times, silences or acknowledgements that cannot be as asked; the message says what would be."""


class DeliveryError(AlertsError):
    """One attempt to deliver one notification failed.

    ``permanent`` says that trying again cannot help. ``retry_after`` is the wait in seconds that the receiver
    asked for, ``None`` if it did not ask. ``gone``: the receiver wants nothing more, of whatever notification.
    """

    def __init__(self, message: str, *, permanent: bool, retry_after: float | None = None, gone: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.retry_after = retry_after
        self.gone = gone
