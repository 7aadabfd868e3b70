"""The outbox as an operator sees it: what is owed or was given up, trying it again, dropping it."""

from __future__ import annotations

import json
from collections import Counter

from rlhfd_alerts.errors import RoutingError
from rlhfd_alerts.outbox import Outbox

__all__ = ["drop", "listed", "retry"]

MAX_LISTED = 1000
_STATES = ("pending", "delivered", "dead")
_CHOICE = "(:id = '' OR id = :id) AND (:target = '' OR target = :target) AND (:state = '' OR state = :state)"
_LIST = (
    "SELECT id, target, state, attempts, created_at, next_at, delivered_at, last_error, body FROM outbox "
    f"WHERE {_CHOICE} ORDER BY seq DESC LIMIT {MAX_LISTED}"
)
_OWED = f"SELECT target FROM outbox WHERE state != 'delivered' AND {_CHOICE}"
_RETRY = f"UPDATE outbox SET state = 'pending', next_at = :now WHERE state != 'delivered' AND {_CHOICE}"
_DROP = f"DELETE FROM outbox WHERE state != 'delivered' AND {_CHOICE}"


def listed(outbox: Outbox, state: str = "", target: str = "") -> list[dict[str, object]]:
    """Return the newest messages, newest first, with what they are about. An empty choice is no choice."""
    names = ("id", "target", "state", "attempts", "created_at", "next_at", "delivered_at", "last_error")
    with outbox.reading() as db:
        rows = db.execute(_LIST, _chosen("", target, state)).fetchall()
    return [{**dict(zip(names, row[:-1], strict=True)), **_about(row[-1])} for row in rows]


def retry(outbox: Outbox, id_: str, target: str, state: str, now: float) -> dict[str, int]:
    """Try what is owed or was given up again, at once; return how many, by target. Raises :class:`RoutingError` if
    there is no message ``id_``."""
    chosen = {**_chosen(id_, target, "" if id_ else state), "now": now}
    with outbox.transaction("retry") as db:
        counts = Counter(name for (name,) in db.execute(_OWED, chosen))
        db.execute(_RETRY, chosen)
    _some(counts.total(), id_)
    return dict(counts)


def drop(outbox: Outbox, id_: str, target: str, state: str) -> int:
    """Forget what is owed or was given up; return how many. Raises :class:`RoutingError` if none is chosen."""
    if not id_ and not target:
        raise RoutingError("name the message or the target whose messages are to be dropped")
    with outbox.transaction("drop") as db:
        count = db.execute(_DROP, _chosen(id_, target, state)).rowcount
    return _some(count, id_)


def _chosen(id_: str, target: str, state: str) -> dict[str, object]:
    if state and state not in _STATES:
        raise RoutingError(f"there is no state {state!r}: pending, delivered or dead")
    return {"id": id_, "target": target, "state": state}


def _some(count: int, id_: str) -> int:
    if count == 0 and id_:
        raise RoutingError(f"there is no undelivered message {id_!r}: rlhfd outbox list shows them")
    return count


def _about(body: bytes) -> dict[str, object]:
    try:
        data = json.loads(body)["data"]
        return {name: data[name] for name in ("run", "rule", "severity", "summary")} | {"about": data["state"]}
    except (ValueError, KeyError, TypeError):
        return {}
