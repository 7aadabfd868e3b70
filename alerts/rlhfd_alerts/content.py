"""What a notification says: the JSON body, the same for every target and every replay."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from rlhfd_alerts.alert import Alert, Notification
from rlhfd_alerts.canonical import canonical_json, spell, timestamp

__all__ = ["body", "canonical_json", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"
_FLAT = "▄"
_NOT_FINITE = "×"
_WIDTH = 32


def body(notification: Notification) -> dict[str, object]:
    """Return the body; a pure function of the notification, since replay compares it byte for byte.

    The head (family, summary, remedy) is the most severe alert's. Times are RFC 3339 UTC; non-finite numbers
    are the strings "NaN", "Infinity" and "-Infinity".
    """
    lead = notification.lead.alert.finding
    alerts = [transition.alert for transition in notification.transitions]
    return {
        "type": f"alert.{notification.state.value}",
        "timestamp": timestamp(notification.lead.time),
        "data": {
            "run": notification.run,
            "boot": notification.boot,
            "rule": notification.rule,
            "family": lead.family,
            "severity": notification.severity.value,
            "state": notification.state.value,
            "step": max((a.last_step for a in alerts if a.last_step is not None), default=None),
            "summary": lead.summary if len(alerts) == 1 else f"{lead.summary} (and {len(alerts) - 1} more)",
            "remedy": lead.remedy,
            "alerts": [_alert(alert) for alert in alerts],
        },
    }


def _alert(alert: Alert) -> dict[str, object]:
    finding = alert.finding
    return {
        "fingerprint": alert.fingerprint,
        "metric": finding.metric,
        "value": spell(alert.last_value),
        "baseline": spell(finding.baseline),
        "step": alert.last_step,
        "onset_step": finding.onset_step,
        "onset_time": timestamp(finding.onset_time),
        "starts_at": timestamp(alert.starts_at),
        "ends_at": None if alert.ends_at is None else timestamp(alert.ends_at),
        "summary": finding.summary,
        "evidence": [[step, spell(value)] for step, value in finding.evidence],
        "sparkline": sparkline([value for _, value in finding.evidence]),
        "labels": dict(finding.labels),
    }


def sparkline(values: Sequence[float]) -> str:
    """Return ``values`` (oldest first) as at most 32 bars from lowest to highest; "×" is not a finite number.

    More values than bars are folded: a bar shows the most unusual value of its share, so that a spike survives.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return _NOT_FINITE * min(len(values), _WIDTH)
    centre = statistics.median_low(finite)
    shown = [_most_unusual(share, centre) for share in _shares(values)]
    low, high = min(finite), max(finite)
    return "".join(_bar(value, low, high) for value in shown)


def _shares(values: Sequence[float]) -> list[Sequence[float]]:
    count = min(len(values), _WIDTH)
    edges = [index * len(values) // count for index in range(count + 1)]
    return [values[start:end] for start, end in itertools.pairwise(edges)]


def _most_unusual(values: Sequence[float], centre: float) -> float:
    return max(values, key=lambda value: abs(value - centre) if math.isfinite(value) else math.inf)


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return _NOT_FINITE
    span = high / 2 - low / 2  # halved: high - low can overflow
    if span == 0:
        return _FLAT
    return _BARS[min(int((value / 2 - low / 2) / span * len(_BARS)), len(_BARS) - 1)]
