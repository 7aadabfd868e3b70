"""When a mute time is in force: every kind of span, both ends of the month, other places, no sense."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from rlhfd_alerts.errors import RoutingError
from rlhfd_alerts.mute_times import parse_mute_time


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("given", "inside", "outside"),
    [
        ({}, ["2026-02-01T00:00"], []),
        ({"weekdays": ["saturday", "sunday"]}, ["2026-01-03T10:00", "2026-01-04T23:59"], ["2026-01-05T00:00"]),
        ({"weekdays": ["monday:Friday"]}, ["2026-01-05T00:00", "2026-01-09T23:59"], ["2026-01-04T12:00"]),
        (
            {"times": ["22:00-24:00", "00:00-06:00"]},
            ["2026-01-01T22:00", "2026-01-01T23:59:59", "2026-01-01T05:59:59"],
            ["2026-01-01T06:00", "2026-01-01T21:59:59"],
        ),
        ({"days_of_month": ["1:3", "15"]}, ["2026-01-03T10:00", "2026-01-15T10:00"], ["2026-01-04T10:00"]),
        ({"days_of_month": ["-1"]}, ["2026-02-28T10:00", "2024-02-29T10:00", "2026-12-31T10:00"], ["2024-02-28T10:00"]),
        ({"days_of_month": ["25:-1"]}, ["2026-01-25T00:00", "2026-01-31T00:00"], ["2026-01-24T23:59"]),
        ({"days_of_month": ["-3:-1"]}, ["2026-04-28T00:00"], ["2026-04-27T23:59"]),
        ({"months": ["december:december", "1"]}, ["2026-12-31T00:00", "2026-01-01T00:00"], ["2026-02-01T00:00"]),
        ({"years": ["2026:2027"]}, ["2026-01-01T00:00", "2027-12-31T23:59"], ["2028-01-01T00:00"]),
        (
            {"weekdays": ["sunday"], "times": ["00:00-08:00"]},
            ["2026-01-04T07:59"],
            ["2026-01-04T08:00", "2026-01-05T07:00"],
        ),
        # Berlin is one hour ahead in winter, two in summer.
        (
            {"times": ["08:00-09:00"], "location": "Europe/Berlin"},
            ["2026-01-01T07:30", "2026-07-01T06:30"],
            ["2026-01-01T08:30", "2026-07-01T07:30"],
        ),
    ],
)
def test_what_a_mute_time_covers(given: dict[str, Any], inside: list[str], outside: list[str]) -> None:
    mute = parse_mute_time(**given)
    assert [moment for moment in inside if not mute.covers(at(moment))] == []
    assert [moment for moment in outside if mute.covers(at(moment))] == []


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"weekdays": ["caturday"]}, "sunday ... saturday"),
        ({"weekdays": ["friday:monday"]}, "give two"),
        ({"times": ["22:00-06:00"]}, "over midnight"),
        ({"times": ["8-9"]}, "HH:MM-HH:MM"),
        ({"times": ["08:00-25:00"]}, "HH:MM-HH:MM"),
        ({"days_of_month": ["0"]}, "1 to 31"),
        ({"months": ["13"]}, "january ... december"),
        ({"years": ["26"]}, "1970 to 9999"),
        ({"location": "Mars/Olympus"}, "Europe/Berlin"),
        ({"location": "../../etc/passwd"}, "Europe/Berlin"),
    ],
)
def test_what_makes_no_sense_is_named_with_what_would(given: dict[str, Any], named: str) -> None:
    with pytest.raises(RoutingError, match=named):
        parse_mute_time(**given)
