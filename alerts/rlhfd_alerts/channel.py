"""HTTP as every receiver uses it: no redirects, no forbidden addresses, bounded waits, no secret in an error."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from rlhfd_alerts.addresses import literal_refusal
from rlhfd_alerts.errors import DeliveryError, TargetError
from rlhfd_alerts.retry import classify
from rlhfd_alerts.target import HttpSettings, Target, url_fault

if TYPE_CHECKING:  # imported where a request is made: the command line reads configurations without it
    import aiohttp

__all__ = ["Answer", "HttpChannel", "Sessions", "printable"]

_ANSWER_BYTES = 4096
_ANSWER_SECONDS = 2.0
_EXCERPT_CHARACTERS = 200


class Sessions:
    """Client sessions, made when first needed: one for all targets that are equally careful."""

    def __init__(self) -> None:
        self._open: dict[tuple[bool, bool, str], aiohttp.ClientSession] = {}

    def of(self, settings: HttpSettings) -> aiohttp.ClientSession:
        """Return the session for a target. Raises :class:`DeliveryError` if ``ca_file`` cannot be used."""
        allow_private = settings.allow_private or bool(settings.proxy)  # then the proxy resolves names
        key = (allow_private, settings.insecure, settings.ca_file)
        if key not in self._open:
            self._open[key] = _session(*key)
        return self._open[key]

    async def close(self) -> None:
        """Close all; safe to call twice."""
        sessions = list(self._open.values())
        self._open.clear()
        for session in sessions:
            await session.close()


def _session(allow_private: bool, insecure: bool, ca_file: str) -> aiohttp.ClientSession:
    import aiohttp

    from rlhfd_alerts.resolver import GuardedResolver

    verify: ssl.SSLContext | bool = not insecure
    if ca_file:
        try:
            verify = ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # SSLError is one, too
            raise DeliveryError(f"ca_file cannot be used: {error.strerror or error}", permanent=False) from None
    connector = aiohttp.TCPConnector(ssl=verify, resolver=GuardedResolver(allow_private))
    return aiohttp.ClientSession(connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other side said; ``text`` is at most its first 4 kB."""

    status: int
    headers: Mapping[str, str]
    text: str


class HttpChannel:
    """One URL of one target."""

    def __init__(self, target: Target[HttpSettings], sessions: Sessions, version: str, path: str = "") -> None:
        url = target.url or target.settings.url or target.settings.default_url()
        fault = url_fault(url)
        if fault is None and not target.settings.allow_private and not target.settings.proxy:
            fault = literal_refusal(url)
        if fault is not None:
            raise TargetError(f"target {target.name!r}: the URL {fault}")
        self._url = url.rstrip("/") + path if path else url
        self._settings = target.settings
        self._sessions = sessions
        self._parts = urlsplit(self._url)
        self._place = _redact(self._parts)
        self._confidential = _confidential(self._parts, target.secrets)
        self._agent = f"rlhfd/{version}"

    async def post(self, body: bytes, headers: Mapping[str, str], now: float, method: str = "POST") -> str:
        """Post ``body``; return what was answered, if it can be read and shown.

        Raises :class:`DeliveryError`, in whose text the URL is only scheme and host.
        """
        answer = await self.exchange(body, headers, method)
        failure = self.failure(answer, now)
        if failure is not None:
            raise failure
        return self.excerpt(answer)

    async def exchange(self, body: bytes, headers: Mapping[str, str], method: str = "POST") -> Answer:
        """Post ``body``; return the answer, whatever it is. Raises :class:`DeliveryError` if there is none."""
        import aiohttp

        session = self._sessions.of(self._settings)
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_seconds)
        try:
            async with session.request(
                method,
                self._url,
                data=body or None,
                headers={"user-agent": self._agent, **headers},
                timeout=timeout,
                allow_redirects=False,
                proxy=self._settings.proxy or None,
            ) as response:
                return Answer(response.status, response.headers, await _text(response))
        except asyncio.TimeoutError:
            raise DeliveryError(f"no answer from {self._place} in time", permanent=False) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Not chained: aiohttp's own text can hold the whole URL.
            raise DeliveryError(f"cannot reach {self._place}: {_cause(error)}", permanent=False) from None

    def failure(self, answer: Answer, now: float) -> DeliveryError | None:
        """Return what is wrong with ``answer``, ``None`` if it is a success."""
        failure = classify(answer.status, answer.headers, now)
        return None if failure is None else self.refused(str(failure), answer, failure)

    def refused(self, what: str, answer: Answer, like: DeliveryError) -> DeliveryError:
        """Return an error that names the place and what was said, as final as ``like``."""
        said = self.excerpt(answer)
        text = f"{what} from {self._place}" + (f": {said}" if said else "")
        return DeliveryError(text, permanent=like.permanent, retry_after=like.retry_after, gone=like.gone)

    def excerpt(self, answer: Answer) -> str:
        """The beginning of an answer in one line; nothing if it echoes what is confidential."""
        if any(part in answer.text for part in self._confidential):
            return ""
        return printable(answer.text)[:_EXCERPT_CHARACTERS]


def printable(text: str) -> str:
    """Return ``text`` in one line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


async def _text(response: aiohttp.ClientResponse) -> str:
    """The beginning of a body. A receiver that is slow to end it has answered all the same: the status counts."""
    import aiohttp

    # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with the result.
    reading = asyncio.ensure_future(response.content.read(_ANSWER_BYTES))
    try:
        await asyncio.wait({reading}, timeout=_ANSWER_SECONDS)
        return reading.result().decode("utf-8", "replace") if reading.done() else ""
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
        return ""
    finally:
        reading.cancel()


def _redact(parts: SplitResult) -> str:
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}/…"


def _confidential(parts: SplitResult, secrets: Iterable[str]) -> set[str]:
    """What must not come back through an answer that echoes the request: incoming-webhook URLs are credentials."""
    pieces = {parts.query, *parts.path.split("/"), *secrets}
    pieces |= {pair.partition("=")[2] for pair in parts.query.split("&")}
    pieces |= {unquote(piece) for piece in pieces}
    return {piece for piece in pieces if len(piece) >= 4}


def _cause(error: Exception) -> str:
    """What went wrong, from the type and the operating system alone: other texts may quote the URL."""
    reason = error.strerror if isinstance(error, OSError) else None
    inner = getattr(error, "certificate_error", None)
    if isinstance(inner, ssl.SSLCertVerificationError):
        reason = inner.verify_message
    return f"{type(error).__name__} ({printable(str(reason))})" if reason else type(error).__name__
