"""Confidence: more witnesses, more severe and farther away is surer; always between 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_alerts.finding import Finding, Severity
from rlhfd_alerts.testing import example_finding
from rlhfd_daemon.confidence import confidence, reach, witness

USUAL = tuple((step, 1.0 + 0.01 * (-1) ** step) for step in range(1, 9))


def found(value: float | None = 2.0, **changes: Any) -> Finding:
    given = {"onset_step": 9, "baseline": 1.0, "evidence": (*USUAL, (9, value or 0.0)), "value": value}
    return example_finding(**{**given, **changes})


def sure_of(findings: Iterable[Finding]) -> float:
    return confidence(map(witness, findings))


@pytest.mark.parametrize(
    ("finding", "expected"),
    [
        (found(None), 1.0),
        (found(math.nan), 1.0),
        (found(-math.inf), 1.0),
        (found(1.0), 0.0),
        (found(1.0 + 5 * 1.4826 * 0.01), 0.5),
        (found(1e300), 1.0),
        (found(5.0, evidence=USUAL[:3]), 0.5),
        (found(5.0, onset_step=None), 0.5),
        (found(5.0, baseline=None, evidence=tuple((step, 5.0) for step in range(1, 9))), 0.0),
    ],
)
def test_reach_is_the_distance_in_spreads(finding: Finding, expected: float) -> None:
    assert reach(finding) == pytest.approx(expected, abs=1e-6)


def test_one_is_less_sure_than_two_and_two_families_are_surer_than_two_metrics_of_one() -> None:
    alone = sure_of([found()])
    same_family = sure_of([found(), found(metric="b")])
    two_families = sure_of([found(), found(metric="b", family="other")])
    assert 0 < alone < same_family < two_families < 1


def test_ranks_of_one_metric_are_one_witness() -> None:
    ranks = [found(labels=(("rank", str(rank)),)) for rank in range(8)]
    assert sure_of(ranks) == sure_of(ranks[:1])


def test_severity_counts() -> None:
    by_severity = [sure_of([found(severity=severity)]) for severity in Severity]
    assert by_severity == sorted(set(by_severity))
    assert sure_of([]) == 0.0
    assert sure_of([found(math.nan, severity=Severity.CRITICAL)]) == 0.9


@given(
    st.lists(
        st.builds(
            found,
            st.none() | st.floats(),
            severity=st.sampled_from(Severity),
            metric=st.sampled_from("abc"),
            family=st.sampled_from("xy"),
            baseline=st.none() | st.floats(),
            evidence=st.lists(st.tuples(st.none() | st.integers(0, 12), st.floats()), max_size=12).map(tuple),
        ),
        max_size=5,
    ),
    st.randoms(),
)
def test_it_is_a_share_whatever_the_numbers_and_their_order(findings: list[Finding], source: Any) -> None:
    sure = sure_of(findings)
    assert 0 <= sure <= 1
    source.shuffle(findings)
    assert sure_of(findings) == sure
