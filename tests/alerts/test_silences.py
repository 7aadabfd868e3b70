"""Silences: their life, what they apply to, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rlhfd_alerts.errors import RoutingError
from rlhfd_alerts.matchers import parse_matchers
from rlhfd_alerts.silences import MAX_SILENCES, Silence, Silences, silence_from_json, silence_to_json

ONE = Silence("sil_1", parse_matchers(['run="r"']), "ada", "known", starts_at=100.0, ends_at=200.0)


@pytest.mark.parametrize(
    ("now", "state"), [(99.9, "pending"), (100.0, "active"), (199.9, "active"), (200.0, "expired")]
)
def test_a_silence_is_in_force_from_its_start_until_before_its_end(now: float, state: str) -> None:
    silences = Silences([ONE])
    assert ONE.state(now) == state
    assert bool(silences.silencing({"run": "r"}, now)) is (state == "active")
    assert not silences.silencing({"run": "x"}, now)


def test_an_expired_silence_is_seen_for_five_days() -> None:
    silences = Silences([ONE])
    assert silences.expire("sil_1", 150.0).ends_at == 150.0
    assert silences.expire("sil_1", 160.0).ends_at == 150.0, "once"
    assert not silences.silencing({"run": "r"}, 150.0)
    assert silences.prune(150.0 + 5 * 86400 - 1) == []
    assert silences.prune(150.0 + 5 * 86400) == ["sil_1"]
    assert silences.all == ()


def test_one_that_has_not_begun_never_begins_after_it_was_expired() -> None:
    silences = Silences([ONE])
    expired = silences.expire("sil_1", 50.0)
    assert [expired.state(now) for now in (50.0, 150.0)] == ["expired", "expired"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"matchers": ()}, "matcher"),
        ({"matchers": parse_matchers(['run=~".*"'])}, "matcher"),
        ({"ends_at": 100.0}, "must end after"),
        ({"ends_at": 10.0, "starts_at": 0.0}, "must end after"),
        ({"author": ""}, "author"),
        ({"comment": "x" * 2000}, "1024"),
    ],
)
def test_what_can_never_apply_or_applies_to_everything_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RoutingError, match=named):
        Silences().add(replace(ONE, **change), now=50.0)


def test_there_is_no_end_of_room_that_is_not_said() -> None:
    silences = Silences([replace(ONE, id=str(number)) for number in range(MAX_SILENCES)])
    with pytest.raises(RoutingError, match="1000"):
        silences.add(ONE, 50.0)
    silences.add(replace(ONE, id="5", comment="changed"), 50.0)
    with pytest.raises(RoutingError, match="silence list"):
        silences.expire("sil_x", 50.0)


def test_a_silence_is_stored_whole() -> None:
    assert silence_from_json(silence_to_json(ONE)) == ONE
    for text in ("[]", "{}", "null", '{"id": 1, "matchers": [{}]}', "nonsense"):
        with pytest.raises(ValueError):
            silence_from_json(text)
