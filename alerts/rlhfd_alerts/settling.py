"""What became of several deliveries, in one transaction; and what was delivered, for receivers that repeat it."""

from __future__ import annotations

from collections.abc import Sequence

from rlhfd_alerts.outbox import Delivery, Outbox

__all__ = ["recent", "settle_dead", "settle_delivered", "settle_retry"]

_DELIVERED = "UPDATE outbox SET state = 'delivered', delivered_at = ? WHERE id = ? AND target = ?"
_RETRY = "UPDATE outbox SET attempts = attempts + 1, next_at = ?, last_error = ? WHERE id = ? AND target = ?"
_DEAD = "UPDATE outbox SET state = 'dead', attempts = attempts + 1, last_error = ? WHERE id = ? AND target = ?"
_RECENT = "SELECT id, body FROM outbox WHERE target = ? AND state = 'delivered' ORDER BY seq DESC LIMIT ?"


def settle_delivered(outbox: Outbox, deliveries: Sequence[Delivery], now: float) -> None:
    """The receiver accepted all of them. Raises :class:`OutboxError`, as the others here do."""
    with outbox._transaction("mark delivered") as db:
        db.executemany(_DELIVERED, [(now, one.id, one.target) for one in deliveries])


def settle_retry(outbox: Outbox, deliveries: Sequence[Delivery], next_at: float, error: str) -> None:
    """Count a failed attempt of each, and try again at ``next_at`` (unix seconds)."""
    with outbox._transaction("mark for retry") as db:
        db.executemany(_RETRY, [(next_at, error, one.id, one.target) for one in deliveries])


def settle_dead(outbox: Outbox, deliveries: Sequence[Delivery], error: str) -> None:
    """They will not be tried again; kept for a person to see."""
    with outbox._transaction("mark dead") as db:
        db.executemany(_DEAD, [(error, one.id, one.target) for one in deliveries])


def recent(outbox: Outbox, target: str, limit: int) -> list[tuple[str, bytes]]:
    """Return (id, body) of the last ``limit`` that ``target`` was sent, oldest first."""
    with outbox._reading() as db:
        rows = db.execute(_RECENT, (target, limit)).fetchall()
    return [(identity, bytes(body)) for identity, body in reversed(rows)]
