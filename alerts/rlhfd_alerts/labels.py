"""What an alert is called by: the labels that matchers, routes, silences and inhibition look at."""

from __future__ import annotations

from collections.abc import Mapping

from rlhfd_alerts.alert import Alert

__all__ = ["LABELS", "labels_of"]

LABELS = ("run", "boot", "rule", "family", "severity", "metric", "episode", "host", "role", "rank")
"""Those that every alert may have; a finding's own come on top."""


def labels_of(alert: Alert, host: str = "") -> Mapping[str, str]:
    """Return the labels of ``alert``; one that it does not have counts as empty. ``host`` is where it was found, of
    which a label of the finding's own may know better. No other label can pass itself off as one of the alert's."""
    finding = alert.finding
    return {
        "host": host,
        **dict(finding.labels),
        "run": finding.run,
        "boot": finding.boot,
        "rule": finding.rule,
        "family": finding.family,
        "severity": finding.severity.value,
        "metric": finding.metric,
        "episode": finding.episode,
    }
