"""Posts notifications as Standard Webhooks: signed, one stable id per notification, no redirects."""

from __future__ import annotations

import asyncio
from urllib.parse import SplitResult, unquote, urlsplit

import aiohttp

from rlhfd_alerts.errors import DeliveryError, SecretError, TargetError
from rlhfd_alerts.retry import classify
from rlhfd_alerts.signature import parse_secret, sign
from rlhfd_alerts.target import Target

__all__ = ["WebhookReceiver"]

_ANSWER_BYTES = 4096
_EXCERPT_CHARACTERS = 200


class WebhookReceiver:
    """One URL, at least one secret. The session is the caller's and is not closed here."""

    def __init__(
        self,
        target: Target,
        session: aiohttp.ClientSession,
        version: str,
    ) -> None:
        if not target.secrets:
            raise SecretError(f"target {target.name!r}: a webhook needs a secret (whsec_<base64 of 24 to 64 bytes>)")
        self._keys = tuple(map(parse_secret, target.secrets))
        self._url = target.url
        self._parts = _split(target)
        self._place = _redact(self._parts)
        self._session = session
        self._agent = f"rlhfd/{version}"
        self._timeout = aiohttp.ClientTimeout(total=target.timeout_seconds)

    async def send(self, notification_id: str, body: bytes, now: float) -> None:
        """Post ``body``; raises :class:`DeliveryError`, in whose text the URL is only scheme and host."""
        headers = {
            "content-type": "application/json",
            "user-agent": self._agent,
            "webhook-id": notification_id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": sign(self._keys, notification_id, int(now), body),
        }
        try:
            await self._post(headers, body, now)
        except asyncio.TimeoutError:
            raise DeliveryError(f"no answer from {self._place} in time", permanent=False) from None
        except (aiohttp.ClientError, OSError) as error:
            # Not chained: aiohttp's own text can hold the whole URL.
            raise DeliveryError(f"cannot reach {self._place}: {_cause(error)}", permanent=False) from None

    async def _post(self, headers: dict[str, str], body: bytes, now: float) -> None:
        async with self._session.post(
            self._url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
        ) as response:
            failure = classify(response.status, response.headers, now)
            if failure is None:
                return  # the body is not awaited: a receiver that is slow to end it has accepted all the same
            said = await self._excerpt(response)
        raise DeliveryError(
            f"{failure} from {self._place}{said}", permanent=failure.permanent, retry_after=failure.retry_after
        )

    async def _excerpt(self, response: aiohttp.ClientResponse) -> str:
        """The beginning of what the receiver says about a failure; nothing if that cannot be read."""
        try:
            answer = await response.content.read(_ANSWER_BYTES)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
            return ""  # the status is known, and it is what counts
        text = answer.decode("utf-8", "replace")
        if any(part in text for part in _confidential(self._parts)):
            return ""
        printable = "".join(c if c.isprintable() else " " for c in text)
        return f": {' '.join(printable.split())[:_EXCERPT_CHARACTERS]}" if printable.strip() else ""


def _split(target: Target) -> SplitResult:
    try:
        parts = urlsplit(target.url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # its text may quote the URL
        usable = False
    if not usable or not target.url.isprintable() or " " in target.url:
        raise TargetError(f"target {target.name!r}: the URL must be http:// or https:// with a host")
    return parts


def _redact(parts: SplitResult) -> str:
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}/…"


def _confidential(parts: SplitResult) -> set[str]:
    """What must not come back through an answer that echoes the request: incoming-webhook URLs are credentials."""
    pieces = {parts.username or "", parts.password or "", parts.query, *parts.path.split("/")}
    pieces |= {pair.partition("=")[2] for pair in parts.query.split("&")}
    pieces |= {unquote(piece) for piece in pieces}
    return {piece for piece in pieces if len(piece) >= 4}


def _cause(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__} ({reason})" if reason else type(error).__name__
