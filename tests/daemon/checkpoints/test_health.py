"""The health of a checkpoint: what takes from it, how much, and never the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.checkpoints.health import KINDS, Issue, score, worst

kinds = st.sampled_from(sorted(KINDS))
extents = st.floats(0, 1)
issues = st.lists(st.builds(Issue, kind=kinds, subject=st.just("x"), summary=st.just(""), extent=extents), max_size=12)


def issue(kind: str, extent: float = 1.0) -> Issue:
    return Issue(kind, "x", "", extent)


def test_a_checkpoint_without_issues_is_healthy() -> None:
    assert score([]) == 1.0
    assert worst([]) is None


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_takes_its_least_at_once_and_its_most_when_everything_is_concerned(kind: str) -> None:
    assert score([issue(kind, 0.0)]) == pytest.approx(1 - KINDS[kind].least)
    assert score([issue(kind, 1.0)]) == pytest.approx(1 - KINDS[kind].most)
    assert 0 < KINDS[kind].least < KINDS[kind].most <= 1
    assert score([issue(kind, 0.0)]) < 0.95, "no issue leaves a checkpoint healthy"


@given(issues, kinds, extents)
def test_one_more_issue_never_raises_the_score(before: list[Issue], kind: str, extent: float) -> None:
    assert 0.0 <= score([*before, issue(kind, extent)]) <= score(before) <= 1.0


@given(issues, kinds, extents, extents)
def test_a_larger_issue_never_raises_the_score(before: list[Issue], kind: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert score([*before, issue(kind, large)]) <= score([*before, issue(kind, small)]) + 1e-12


@given(issues)
def test_the_order_of_the_issues_does_not_matter(found: list[Issue]) -> None:
    assert score(found) == pytest.approx(score(found[::-1]))


def test_the_extents_of_one_kind_add_up_and_other_kinds_multiply() -> None:
    assert score([issue("constant", 0.25), issue("constant", 0.25)]) == pytest.approx(score([issue("constant", 0.5)]))
    both = score([issue("step"), issue("dtype", 0.0)])
    assert both == pytest.approx(score([issue("step")]) * score([issue("dtype", 0.0)]))


def test_the_worst_counts() -> None:
    assert worst([issue("dtype")]) is Severity.WARNING
    assert worst([issue("dtype"), issue("step")]) is Severity.CRITICAL


def test_the_page_s_table_is_this_one() -> None:
    page = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text()
    for name, kind in KINDS.items():
        row = (name, f"[{kind.rule}](rules.md#{kind.rule})", kind.severity.value, f"{kind.least:g}", f"{kind.most:g}")
        assert f"| {' | '.join((*row, kind.meaning))} |" in page
