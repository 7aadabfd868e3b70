"""What a notification says: the JSON body, the same for every target and every replay."""

from __future__ import annotations

from rlhfd_alerts.alert import Alert, Notification
from rlhfd_alerts.canonical import canonical_json, spell, timestamp
from rlhfd_alerts.episode_content import episode_content, rule_url
from rlhfd_alerts.sparkline import sparkline

__all__ = ["body", "canonical_json", "sparkline"]


def body(notification: Notification) -> dict[str, object]:
    """Return the body; a pure function of the notification, since replay compares it byte for byte.

    The head (rule, family, summary, remedy) is that of :attr:`Notification.head`; ``alerts`` are what changed now,
    ``episode`` is the whole; ``repeat``, where it is told again, how many times that was. Times are RFC 3339 UTC;
    non-finite numbers are the strings "NaN", "Infinity" and "-Infinity".
    """
    head, episode = notification.head.finding, notification.episode
    alerts = [transition.alert for transition in notification.transitions]
    more = (len(alerts) if episode is None else len(episode.members) + episode.more) - 1
    again: dict[str, object] = {"repeat": notification.repeat} if notification.repeat else {}
    return {
        "type": f"alert.{notification.state.value}",
        "timestamp": timestamp(notification.lead.time),
        "data": {
            "run": notification.run,
            "boot": notification.boot,
            "rule": head.rule,
            "rule_url": rule_url(head.rule),
            "family": head.family,
            "severity": notification.severity.value,
            "state": notification.state.value,
            "step": max((a.last_step for a in alerts if a.last_step is not None), default=None),
            "summary": f"{head.summary} (and {more} more)" if more else head.summary,
            "remedy": head.remedy,
            "episode": None if episode is None else episode_content(episode),
            "alerts": [_alert(alert) for alert in alerts],
            **again,
        },
    }


def _alert(alert: Alert) -> dict[str, object]:
    finding = alert.finding
    return {
        "fingerprint": alert.fingerprint,
        "rule": finding.rule,
        "family": finding.family,
        "severity": finding.severity.value,
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
