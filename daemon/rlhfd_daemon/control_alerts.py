"""What an operator may do about alerts while the daemon runs: acknowledge, silence, look into the outbox."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from aiohttp import web

from rlhfd_alerts.errors import AlertsError, OutboxError
from rlhfd_alerts.ledger import Ledger
from rlhfd_alerts.matchers import parse_matchers
from rlhfd_alerts.outbox_admin import drop, listed, retry
from rlhfd_alerts.silences import Silence
from rlhfd_alerts.subjects import Subject
from rlhfd_daemon.alerting import Alerting

__all__ = ["alert_routes"]


class AckRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /api/v1/alerts/ack``."""

    episode: str
    author: str
    comment: str = ""


class SilenceRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /api/v1/silences``: from now, or ``starts_at`` (unix seconds), for ``seconds``."""

    matchers: list[str]
    author: str
    comment: str
    seconds: float
    starts_at: float | None = None


class ExpireRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /api/v1/silences/expire``."""

    id: str


class OutboxRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /api/v1/outbox/retry`` and ``drop``: the message ``id``, or all of ``target`` in ``state``."""

    id: str = ""
    target: str = ""
    state: str = ""


def alert_routes(alerting: Callable[[], Alerting], retried: Callable[[set[str]], None]) -> list[web.RouteDef]:
    """The routes; ``retried`` hears of targets that are to be tried again at once."""
    desk = Desk(alerting, retried)
    posts: dict[str, tuple[type[msgspec.Struct], Callable[[Any], object]]] = {
        "/api/v1/alerts/ack": (AckRequest, desk.ack),
        "/api/v1/silences": (SilenceRequest, desk.silence),
        "/api/v1/silences/expire": (ExpireRequest, desk.expire),
        "/api/v1/outbox/retry": (OutboxRequest, desk.retry),
        "/api/v1/outbox/drop": (OutboxRequest, desk.drop),
    }
    gets: dict[str, Callable[[web.Request], object]] = {
        "/api/v1/alerts": lambda _: desk.alerts(),
        "/api/v1/silences": lambda _: desk.silences(),
        "/api/v1/outbox": lambda request: desk.outbox(request.query.get("state", ""), request.query.get("target", "")),
    }
    return [
        *(web.post(path, _post(kind, act)) for path, (kind, act) in posts.items()),
        *(web.get(path, _get(act)) for path, act in gets.items()),
    ]


class Desk:
    """Every change is on disk before it is answered. Methods raise :class:`AlertsError` with what is wrong."""

    def __init__(self, alerting: Callable[[], Alerting], retried: Callable[[set[str]], None]) -> None:
        self._alerting = alerting
        self._retried = retried

    def ack(self, wanted: AckRequest) -> object:
        now = time.time()
        ack = self._alerting().dispatcher.acknowledge(wanted.episode, wanted.author, wanted.comment, now)
        self._alerting().settle(now)
        return {"episode": ack.episode, "at": ack.at, "author": ack.author}

    def silence(self, wanted: SilenceRequest) -> object:
        now = time.time()
        starts_at = now if wanted.starts_at is None else wanted.starts_at
        silence = Silence(
            id="sil_" + uuid.uuid4().hex[:12],
            matchers=parse_matchers(wanted.matchers),
            author=wanted.author,
            comment=wanted.comment,
            starts_at=starts_at,
            ends_at=starts_at + wanted.seconds,
        )
        self._alerting().dispatcher.silence(silence, now)
        self._alerting().settle(now)
        return _silence(silence, now)

    def expire(self, wanted: ExpireRequest) -> object:
        now = time.time()
        silence = self._alerting().dispatcher.expire(wanted.id, now)
        self._alerting().settle(now)
        return _silence(silence, now)

    def silences(self) -> object:
        now = time.time()
        return {"silences": [_silence(one, now) for one in self._alerting().dispatcher.muting.silences.all]}

    def alerts(self) -> object:
        alerting, now = self._alerting(), time.time()
        ledger = alerting.dispatcher.ledger
        opened = sorted(
            (one for one in ledger.subjects.values() if one.is_alive), key=lambda one: one.episode.opened_time
        )
        pending = [
            {"run": alert.finding.run, "rule": alert.finding.rule, "metric": alert.finding.metric, "fires_at": at}
            for alert, at in alerting.pending
        ]
        return {"time": now, "episodes": [_episode(ledger, one, now) for one in opened], "pending": pending}

    def outbox(self, state: str, target: str) -> object:
        return {"messages": listed(self._alerting().outbox, state, target)}

    def retry(self, wanted: OutboxRequest) -> object:
        counts = retry(self._alerting().outbox, wanted.id, wanted.target, wanted.state, time.time())
        self._retried({*counts, *([wanted.target] if wanted.target else [])})
        return {"messages": sum(counts.values())}

    def drop(self, wanted: OutboxRequest) -> object:
        return {"messages": drop(self._alerting().outbox, wanted.id, wanted.target, wanted.state)}


def _silence(silence: Silence, now: float) -> dict[str, object]:
    return {
        "id": silence.id,
        "state": silence.state(now),
        "matchers": list(map(str, silence.matchers)),
        "author": silence.author,
        "comment": silence.comment,
        "starts_at": silence.starts_at,
        "ends_at": silence.ends_at,
    }


def _episode(ledger: Ledger, subject: Subject, now: float) -> dict[str, object]:
    muting, cause = ledger.muting, subject.episode.cause.finding
    ack = muting.acks.get(subject.id) if muting.is_acked(subject) else None
    reasons: Iterable[str | None] = (muting.reason(one.labels, now) for one in subject.grave)
    return {
        "id": subject.id,
        "run": cause.run,
        "boot": cause.boot,
        "severity": subject.episode.severity.value,
        "opening": subject.episode.opening,
        "since": subject.episode.opened_time,
        "rule": cause.rule,
        "metric": cause.metric,
        "summary": cause.summary,
        "remedy": cause.remedy,
        "muted": next((one for one in reasons if one), None) if muting.mutes(subject, now) else None,
        "held_until": subject.held_until,
        "acknowledged": None if ack is None else {"author": ack.author, "comment": ack.comment, "at": ack.at},
        "targets": {
            target: None if place.told is None else place.told.value
            for target, place in ledger.places.get(subject.id, {}).items()
        },
        "alerts": [dict(one.labels) for one in list(subject.firing.values())[:100]],
        "firing": len(subject.firing),
    }


def _post(kind: type[msgspec.Struct], act: Callable[[Any], object]) -> Callable[[web.Request], Any]:
    async def post(request: web.Request) -> web.Response:
        try:
            return _answered(act, msgspec.json.decode(await request.read(), type=kind))
        except msgspec.MsgspecError as error:
            return web.json_response({"error": str(error)}, status=400)

    return post


def _get(act: Callable[[web.Request], object]) -> Callable[[web.Request], Any]:
    async def get(request: web.Request) -> web.Response:
        return _answered(act, request)

    return get


def _answered(act: Callable[[Any], object], wanted: object) -> web.Response:
    try:
        return web.Response(body=msgspec.json.encode(act(wanted)), content_type="application/json")
    except OutboxError as error:
        return web.json_response({"error": str(error)}, status=500)
    except AlertsError as error:
        return web.json_response({"error": str(error)}, status=400)
