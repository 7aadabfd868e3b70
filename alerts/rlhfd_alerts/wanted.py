"""Which notifications a target is not to be told; pure."""

from __future__ import annotations

import json

__all__ = ["OWN_RULES", "is_about_delivery", "is_wanted"]

OWN_RULES = ("notifier_degraded", "notification_given_up")
"""The rules of alerts about the delivery of alerts; their label ``target`` names whose."""


def is_wanted(body: bytes, target: str) -> bool:
    """Return whether ``target`` is to be told ``body``: all but that it was out of service itself."""
    return target not in _targets(_read(body))


def is_about_delivery(body: bytes) -> bool:
    """Return whether ``body`` is about the delivery of alerts: what becomes of it must not cause another."""
    return bool(_targets(_read(body)))


def _targets(content: dict[str, object]) -> set[str]:
    """The targets that the message is about; none if it is about anything else as well."""
    data = content.get("data")
    alerts = data.get("alerts") if isinstance(data, dict) else None
    if not isinstance(alerts, list) or not all(isinstance(alert, dict) for alert in alerts):
        return set()
    if not all(alert.get("rule") in OWN_RULES for alert in alerts):
        return set()
    return {str(alert["labels"].get("target")) for alert in alerts if isinstance(alert.get("labels"), dict)}


def _read(body: bytes) -> dict[str, object]:
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
