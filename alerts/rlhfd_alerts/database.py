"""Opens the outbox's SQLite file: durability settings, schema version, a corrupt file moved aside."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import structlog

from rlhfd_alerts.errors import OutboxError

__all__ = ["open_database"]

SCHEMA_VERSION = 1
_BUSY_SECONDS = 0.25  # it is spent in the event loop
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alert (
    fingerprint TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    starts_at REAL NOT NULL,
    json TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dispatch (key TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    target TEXT NOT NULL,
    lane TEXT NOT NULL,
    body BLOB NOT NULL,
    created_at REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    last_error TEXT,
    delivered_at REAL,
    UNIQUE (id, target)
);
CREATE INDEX IF NOT EXISTS outbox_pending ON outbox (target, lane, seq) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS outbox_state ON outbox (state, seq);
"""

_log = structlog.get_logger("rlhfd.alerts")


class _CorruptError(Exception):
    pass


def open_database(path: Path) -> tuple[sqlite3.Connection, Path | None]:
    """Open or create ``path``; return the connection and where a corrupt predecessor was moved, if one was.

    Raises :class:`OutboxError` if the file cannot be opened or was written by a newer version.
    """
    try:
        try:
            return _open(path), None
        except _CorruptError as error:
            aside = _move_aside(path)
            _log.error(
                "outbox is corrupt: starting an empty one", path=str(path), moved_to=str(aside), cause=str(error)
            )
            return _open(path), aside
    except (_CorruptError, sqlite3.Error, OSError) as error:
        raise OutboxError(f"cannot open the outbox {path}: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    # Created here and not by SQLite, so that its -wal and -shm files inherit the mode: alerts name runs and hosts.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    _check_header(path)
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        _check(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
        db.execute("INSERT OR IGNORE INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))
    except sqlite3.OperationalError:  # locked, full, read-only, I/O: the file itself may be sound
        db.close()
        raise
    except sqlite3.DatabaseError as error:
        db.close()
        raise _CorruptError(str(error)) from error
    except (_CorruptError, OutboxError):
        db.close()
        raise
    return db


def _check_header(path: Path) -> None:
    """SQLite takes these two for a file from its own future, which it only reads or refuses (fileformat2, 1.3)."""
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) == 100 and (header[18] not in (1, 2) or int.from_bytes(header[44:48], "big") > 4):
        raise _CorruptError("the header has an unknown file format")


def _check(db: sqlite3.Connection, path: Path) -> None:
    findings = [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
    if findings != ["ok"]:
        raise _CorruptError("; ".join(findings))
    if db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'").fetchone() is None:
        return
    row = db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    version = str(SCHEMA_VERSION) if row is None else str(row[0])
    if version != str(SCHEMA_VERSION):
        raise OutboxError(
            f"the outbox {path} has schema version {version}, this rlhfd knows {SCHEMA_VERSION}: "
            "run the rlhfd that wrote it, or move the file away (undelivered alerts are in it)"
        )


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    # The log files go along: left behind, they would be replayed into the fresh file.
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
