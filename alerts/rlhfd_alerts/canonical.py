"""One spelling per value, so that identities can be hashed and bodies compared byte for byte."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta

__all__ = ["canonical_json", "spell", "timestamp"]

_LAST_MILLISECOND = 253402300799999  # 9999-12-31T23:59:59.999Z, the last instant RFC 3339 can write


def canonical_json(obj: object) -> bytes:
    """Return UTF-8 JSON with sorted keys and no spaces.

    Raises ``ValueError`` for NaN and infinities: they are not JSON, see :func:`spell`.
    A lone surrogate, which UTF-8 cannot hold, becomes ``?``.
    """
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.encode("utf-8", "replace")


def spell(value: float | None) -> float | str | None:
    """Return ``value`` as JSON can hold it: non-finite numbers become "NaN", "Infinity" or "-Infinity"."""
    if value is None or math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def timestamp(seconds: float) -> str:
    """Return unix ``seconds`` as RFC 3339 UTC with milliseconds (rounded down).

    A time no calendar has (NaN, before 1970, after 9999) comes from a sender's broken clock; it is clamped
    rather than allowed to keep an alert from being told.
    """
    return _format(0 if math.isnan(seconds) else _clamp(seconds * 1000))


def _clamp(milliseconds: float) -> int:
    return math.floor(min(max(milliseconds, 0.0), float(_LAST_MILLISECOND)))


def _format(milliseconds: int) -> str:
    # Integer arithmetic: datetime.fromtimestamp rounds differently between versions and platforms.
    moment = datetime(1970, 1, 1) + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds") + "Z"
