"""From findings to delivered notifications: lifecycle, grouping, a durable outbox, receivers.

Knows nothing of frames, ZeroMQ or OpenRLHF. The names below are data only; importing them loads no HTTP client.
"""

from __future__ import annotations

from rlhfd_alerts.alert import Alert, AlertState, Notification, Transition
from rlhfd_alerts.errors import AlertsError, DeliveryError, OutboxError, SecretError, TargetError
from rlhfd_alerts.finding import Finding, Severity

__all__ = [
    "Alert",
    "AlertState",
    "AlertsError",
    "DeliveryError",
    "Finding",
    "Notification",
    "OutboxError",
    "SecretError",
    "Severity",
    "TargetError",
    "Transition",
]
