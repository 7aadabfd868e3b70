"""Whether and when to try again; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from rlhfd_alerts.errors import DeliveryError

__all__ = ["HORIZON_SECONDS", "backoff", "classify"]

HORIZON_SECONDS = 3600.0
"""No attempt is scheduled further ahead, whatever a receiver asks for: one more 429 an hour does no harm."""

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 300.0
_SHORTEST_SECONDS = 0.5
_RETRYABLE = frozenset({408, 425, 429})


def backoff(attempt: int, random: Callable[[], float]) -> float:
    """Return the wait in seconds after failed attempt number ``attempt`` (from 1).

    Full jitter below a ceiling that doubles from 1 s to 300 s, but never under 0.5 s; ``random`` is in [0, 1).
    """
    doublings = min(max(attempt - 1, 0), 16)
    ceiling = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0**doublings)
    return max(_SHORTEST_SECONDS, random() * ceiling)


def classify(status: int, headers: Mapping[str, str], now: float) -> DeliveryError | None:
    """Return what an HTTP answer means for a delivery, ``None`` for success; ``now`` is unix seconds.

    After Standard Webhooks: 2xx is success; 408, 425, 429 and 5xx are worth another try, not before
    ``Retry-After``; a redirect is a wrong URL in the configuration and is never followed; 410 and the other 4xx
    will not change. ``headers`` should ignore case, as HTTP does.
    """
    if 200 <= status < 300:
        return None
    if status in _RETRYABLE or status >= 500:
        return DeliveryError(
            f"HTTP {status}", permanent=False, retry_after=_retry_after(headers.get("Retry-After"), now)
        )
    if 300 <= status < 400:
        return DeliveryError(f"HTTP {status}: a redirect, configure the final URL", permanent=True)
    if status == 410:
        return DeliveryError("HTTP 410: the receiver is gone for good, remove the target", permanent=True, gone=True)
    return DeliveryError(f"HTTP {status}", permanent=True)


def _retry_after(value: str | None, now: float) -> float | None:
    """RFC 9110 10.2.3: seconds or a date. What cannot be read counts as not said."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), HORIZON_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):  # TypeError: what 3.10's parser raises for garbage
        return None
    seconds = _unix(moment) - now
    return min(max(seconds, 0.0), HORIZON_SECONDS) if math.isfinite(seconds) else None


def _unix(moment: datetime) -> float:
    # "-0000" parses as naive; the standard says such a date is UTC, timestamp() would take it for local time.
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
