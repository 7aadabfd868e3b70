"""The durable outbox: what was decided is on disk before anything is sent, and stays until it is delivered."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from rlhfd_alerts.alert import Alert, Notification, Transition
from rlhfd_alerts.canonical import canonical_json
from rlhfd_alerts.codec import alert_from_json, alert_to_json
from rlhfd_alerts.content import body
from rlhfd_alerts.database import open_database
from rlhfd_alerts.errors import OutboxError
from rlhfd_alerts.ledger import Rows
from rlhfd_alerts.retry import HORIZON_SECONDS
from rlhfd_alerts.telling import Outgoing

__all__ = ["Delivery", "Outbox"]

_KEEP_SETTLED = 10_000
_KEEP_RESOLVED = 1_000

# The oldest pending of each lane (run, boot, episode): "resolved" never overtakes the "firing" it belongs to, while one
# undeliverable message holds up no other lane.
_HEADS = """
FROM outbox AS head WHERE target = :target AND state = 'pending' AND NOT EXISTS (
    SELECT 1 FROM outbox AS older
    WHERE older.target = head.target AND older.lane = head.lane AND older.state = 'pending' AND older.seq < head.seq
)
"""
_ADD = """
INSERT OR IGNORE INTO outbox (target, id, lane, body, created_at, next_at) SELECT ?1, ?2, ?3, ?4, ?5, ?6
WHERE ?7 IS NULL OR ?7 = EXISTS (SELECT 1 FROM outbox WHERE target = ?1 AND lane = ?3 AND state = 'pending')
"""
_DELIVERED = "UPDATE outbox SET state = 'delivered', delivered_at = ? WHERE id = ? AND target = ?"
_FAILED = "UPDATE outbox SET attempts = attempts + 1, next_at = ?, last_error = ? WHERE id = ? AND target = ?"
_DEAD = "UPDATE outbox SET state = 'dead', attempts = attempts + 1, last_error = ? WHERE id = ? AND target = ?"
_RECENT = "SELECT id, body FROM outbox WHERE target = ? AND state = 'delivered' ORDER BY seq DESC LIMIT ?"
_PRUNE_OUTBOX = """
DELETE FROM outbox WHERE state = :state AND seq <= (
    SELECT seq FROM outbox WHERE state = :state ORDER BY seq DESC LIMIT 1 OFFSET :keep
)
"""
_PRUNE_ALERT = """
DELETE FROM alert WHERE state = 'resolved' AND fingerprint NOT IN (
    SELECT fingerprint FROM alert WHERE state = 'resolved' ORDER BY starts_at DESC, fingerprint LIMIT :keep
)
"""

_log = structlog.get_logger("rlhfd.alerts")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One notification owed to one target. ``attempts`` counts the failed ones; times are unix seconds."""

    id: str
    target: str
    body: bytes
    created_at: float
    attempts: int
    next_at: float


class Outbox:
    """One SQLite file (WAL, synchronous=FULL), one writer, one thread. Every method may raise OutboxError."""

    def __init__(self, db: sqlite3.Connection, path: Path, moved_aside: Path | None = None) -> None:
        self._db = db
        self._path = path
        self.moved_aside = moved_aside
        """Where a corrupt predecessor was moved when this one was opened: worth an alert of its own."""

    @classmethod
    def open(cls, path: Path) -> Outbox:
        """Open or create the file; its folder must exist. A corrupt one is moved to ``<name>.corrupt-<n>``.

        Raises :class:`OutboxError` if it cannot be opened or a newer rlhfd wrote it.
        """
        db, moved_aside = open_database(path)
        return cls(db, path, moved_aside)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._db.close()

    def commit(
        self,
        transitions: Iterable[Transition],
        notifications: Iterable[Notification],
        targets: Iterable[str],
        decided_through: int,
        now: float,
    ) -> None:
        """Tell every one of ``targets`` all ``notifications``; see :meth:`tell`."""
        names = tuple(targets)
        self.tell(transitions, [Outgoing(name, one) for one in notifications for name in names], decided_through, now)

    def tell(
        self,
        transitions: Iterable[Transition],
        outgoing: Iterable[Outgoing],
        decided_through: int,
        now: float,
        rows: Rows | None = None,
    ) -> None:
        """Store the new alert states, one delivery per outgoing message and the dispatcher's ``rows``, durably and all
        at once.

        Storing the same decision again adds nothing. ``decided_through`` is the last frame-log record whose
        decisions are now stored; it never moves back.
        """
        with self.transaction("commit") as db:
            db.executemany("INSERT OR REPLACE INTO alert VALUES (?, ?, ?, ?)", map(_alert_row, transitions))
            before: Notification | None = None  # most are the same for several targets in a row
            for one in outgoing:
                if one.notification != before:
                    before = one.notification
                    message = (before.id, _lane(before), canonical_json(body(before)), now, now)
                db.execute(_ADD, (one.target, *message, one.owed))
            _store_rows(db, rows or {})
            _advance(db, decided_through)
            _prune(db)

    def advance(self, record_id: int, rows: Rows | None = None) -> None:
        """Note that everything up to ``record_id`` was decided and needed no transition; never moves back."""
        with self.transaction("advance") as db:
            _store_rows(db, rows or {})
            _advance(db, record_id)

    def rows(self) -> dict[str, str]:
        """Return the stored rows of the dispatcher and of the lifecycle, by key."""
        with self.reading() as db:
            return dict(db.execute("SELECT key, json FROM dispatch ORDER BY key").fetchall())

    def decided_through(self) -> int:
        """Return the last frame-log record whose decisions are stored, -1 if there is none."""
        with self.reading() as db:
            row = db.execute("SELECT value FROM meta WHERE key = 'decided_through'").fetchone()
        return -1 if row is None else int(row[0])

    def alerts(self) -> list[Alert]:
        """Return the stored alerts, oldest first: all that are firing, and the last 1,000 resolved."""
        with self.reading() as db:
            rows = db.execute("SELECT fingerprint, json FROM alert ORDER BY starts_at, fingerprint").fetchall()
        return [alert for fingerprint, text in rows if (alert := _read(fingerprint, text)) is not None]

    def due(self, target: str, now: float, limit: int) -> list[Delivery]:
        """Return up to ``limit`` deliveries to attempt now, longest due first, one per run, boot and episode.

        Longest due and not oldest: a message that fails again and again goes behind those not yet tried.
        A row scheduled beyond the horizon is due: the clock was set back under it.
        """
        query = (
            f"SELECT id, target, body, created_at, attempts, next_at {_HEADS}"
            "AND (next_at <= :now OR next_at > :now + :horizon) ORDER BY next_at, seq LIMIT :limit"
        )
        with self.reading() as db:
            rows = db.execute(query, {"target": target, "now": now, "horizon": HORIZON_SECONDS, "limit": limit})
            return [Delivery(*row) for row in rows]

    def next_due(self, target: str, now: float) -> float | None:
        """Return when the next delivery to ``target`` is due (unix seconds, may be past), ``None`` if none is owed."""
        query = f"SELECT MIN(CASE WHEN next_at > :now + :horizon THEN :now ELSE next_at END) {_HEADS}"
        with self.reading() as db:
            row = db.execute(query, {"target": target, "now": now, "horizon": HORIZON_SECONDS}).fetchone()
        return None if row[0] is None else float(row[0])

    def mark_delivered(self, deliveries: Iterable[Delivery], now: float) -> None:
        """Settle: the receiver accepted them all."""
        with self.transaction("mark delivered") as db:
            db.executemany(_DELIVERED, [(now, one.id, one.target) for one in deliveries])

    def mark_retry(self, deliveries: Iterable[Delivery], next_at: float, error: str) -> None:
        """Count a failed attempt of each and try again at ``next_at`` (unix seconds)."""
        with self.transaction("mark for retry") as db:
            db.executemany(_FAILED, [(next_at, error, one.id, one.target) for one in deliveries])

    def mark_dead(self, deliveries: Iterable[Delivery], error: str) -> None:
        """Settle: they will not be tried again; kept for a person to see."""
        with self.transaction("mark dead") as db:
            db.executemany(_DEAD, [(error, one.id, one.target) for one in deliveries])

    def recent(self, target: str, limit: int) -> list[tuple[str, bytes]]:
        """Return (id, body) of the last ``limit`` that ``target`` was sent, oldest first."""
        with self.reading() as db:
            rows = db.execute(_RECENT, (target, limit)).fetchall()
        return [(identity, bytes(body)) for identity, body in reversed(rows)]

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Return the number of deliveries by (target, state); states are pending, delivered, dead."""
        with self.reading() as db:
            rows = db.execute("SELECT target, state, COUNT(*) FROM outbox GROUP BY target, state").fetchall()
        return {(target, state): count for target, state, count in rows}

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for queries; SQLite's errors become :class:`OutboxError`."""
        try:
            yield self._db
        except sqlite3.Error as error:
            raise OutboxError(f"cannot read the outbox {self._path}: {error}") from error

    @contextmanager
    def transaction(self, purpose: str) -> Iterator[sqlite3.Connection]:
        """Lend the connection for changes that are made all or none; errors as in :meth:`reading`."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                # A COMMIT that fails (disk full) may leave the transaction open, and the next BEGIN would fail.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise OutboxError(f"cannot {purpose} in the outbox {self._path}: {error}") from error


def _alert_row(transition: Transition) -> tuple[str, str, float, str]:
    alert = transition.alert
    return alert.fingerprint, alert.state.value, alert.starts_at, alert_to_json(alert)


def _lane(notification: Notification) -> str:
    episode = notification.episode
    subject = notification.rule if episode is None else episode.id
    return canonical_json([notification.run, notification.boot, subject]).decode()


def _advance(db: sqlite3.Connection, record_id: int) -> None:
    db.execute(
        "INSERT INTO meta VALUES ('decided_through', :id) ON CONFLICT (key) DO UPDATE SET value = :id "
        "WHERE CAST(value AS INTEGER) < CAST(:id AS INTEGER)",
        {"id": str(record_id)},
    )


def _store_rows(db: sqlite3.Connection, rows: Rows) -> None:
    db.executemany("DELETE FROM dispatch WHERE key = ?", [(key,) for key, text in rows.items() if text is None])
    kept = [(key, text) for key, text in rows.items() if text is not None]
    db.executemany("INSERT OR REPLACE INTO dispatch VALUES (?, ?)", kept)


def _prune(db: sqlite3.Connection) -> None:
    for state in ("delivered", "dead"):
        db.execute(_PRUNE_OUTBOX, {"state": state, "keep": _KEEP_SETTLED})
    db.execute(_PRUNE_ALERT, {"keep": _KEEP_RESOLVED})


def _read(fingerprint: str, text: str) -> Alert | None:
    try:
        return alert_from_json(text)
    except ValueError as error:
        # One unreadable alert must not keep the daemon from watching the rest.
        _log.error("stored alert is unreadable: ignored", fingerprint=fingerprint, cause=str(error))
        return None
