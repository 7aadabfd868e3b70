"""Whether and when to try again: tables."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from rlhfd_alerts.retry import HORIZON_SECONDS, backoff, classify

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_success(status: int) -> None:
    assert classify(status, {}, NOW) is None


@pytest.mark.parametrize(
    ("status", "permanent"),
    [
        *((status, False) for status in (408, 425, 429, 500, 502, 503, 504, 507, 599)),
        *((status, True) for status in (300, 301, 302, 303, 304, 307, 308)),
        *((status, True) for status in (400, 401, 403, 404, 405, 410, 413, 415, 422, 451)),
    ],
)
def test_a_failure_is_permanent_or_worth_another_try(status: int, permanent: bool) -> None:
    error = classify(status, {}, NOW)
    assert error is not None
    assert error.permanent is permanent
    assert error.retry_after is None
    assert str(status) in str(error)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("2", 2.0),
        (" 120 ", 120.0),
        ("99999999999999999999", HORIZON_SECONDS),
        ("9" * 8000, HORIZON_SECONDS),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:13:50 -0000", 30.0),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", HORIZON_SECONDS),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    error = classify(429, CIMultiDict({"retry-after": value}), NOW)
    assert error is not None
    assert error.retry_after == seconds


def test_a_date_of_unknown_zone_is_utc_wherever_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        error = classify(429, {"Retry-After": "Tue, 14 Nov 2023 22:13:50 -0000"}, NOW)
    time.tzset()
    assert error is not None
    assert error.retry_after == 30.0


@given(st.text())
def test_no_retry_after_can_break_the_classification(value: str) -> None:
    error = classify(503, {"Retry-After": value}, NOW)
    assert error is not None
    assert error.retry_after is None or 0 <= error.retry_after <= HORIZON_SECONDS


@pytest.mark.parametrize(
    ("attempt", "longest"), [(1, 1.0), (2, 2.0), (3, 4.0), (9, 256.0), (10, 300.0), (11, 300.0), (10**9, 300.0)]
)
def test_the_wait_doubles_up_to_five_minutes_with_full_jitter(attempt: int, longest: float) -> None:
    assert backoff(attempt, lambda: 1.0) == longest
    assert backoff(attempt, lambda: 0.6) == pytest.approx(max(0.5, 0.6 * longest))
    assert backoff(attempt, lambda: 0.0) == 0.5
