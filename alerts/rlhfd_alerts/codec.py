"""Alerts as the outbox stores them."""

from __future__ import annotations

import json
from dataclasses import fields as fields_of
from typing import Any

from rlhfd_alerts.alert import Alert, AlertState, Place
from rlhfd_alerts.finding import Finding, Severity

__all__ = ["alert_from_json", "alert_to_json"]

_ALERT, _FINDING, _PLACE = (tuple(one.name for one in fields_of(kind)) for kind in (Alert, Finding, Place))


def alert_to_json(alert: Alert) -> str:
    """Return ``alert`` as JSON text that only this package reads: NaN and infinities stay numbers."""
    finding, place = alert.finding, alert.place
    fields = {name: getattr(alert, name) for name in _ALERT}
    fields["finding"] = {name: getattr(finding, name) for name in _FINDING}
    fields["place"] = None if place is None else {name: getattr(place, name) for name in _PLACE}
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))  # of enumerations the values: they are str


def alert_from_json(text: str) -> Alert:
    """Return the alert that :func:`alert_to_json` wrote, now or before there were episodes. Raises ``ValueError`` if
    it did not write this."""
    try:
        fields: dict[str, Any] = json.loads(text)
        finding = _finding(fields.pop("finding"))
        place = _place(fields.get("place"))
        return Alert(**{**fields, "finding": finding, "state": AlertState(fields["state"]), "place": place})
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an alert: {error}") from error


def _finding(fields: dict[str, Any]) -> Finding:
    return Finding(
        **{
            **fields,
            "severity": Severity(fields["severity"]),
            "evidence": tuple((step, value) for step, value in fields["evidence"]),
            "labels": tuple((name, value) for name, value in fields["labels"]),
        }
    )


def _place(fields: dict[str, Any] | None) -> Place | None:
    return None if fields is None else Place(**{**fields, "severity": Severity(fields["severity"])})
