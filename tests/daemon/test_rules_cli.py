"""`rlhfd rules`: lists, shows and renders the catalogue."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlhfd_daemon.cli import app
from rlhfd_daemon.rules import Argument, Clause, Signal
from rlhfd_daemon.rules.catalogue import CATALOGUE, find
from rlhfd_daemon.rules.rendering import in_words, markdown

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"


def invoked(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = CliRunner().invoke(app, ["rules", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


def test_the_page_says_what_the_catalogue_says() -> None:
    code, page, _ = invoked("list", "--markdown")
    assert code == 0
    assert page == PAGE.read_text(), "run: rlhfd rules list --markdown > docs/rules.md"


def test_the_page_has_one_anchor_for_each_rule_and_no_link_that_leads_nowhere() -> None:
    page = markdown()
    anchors = re.findall(r'<a id="(\w+)"></a>', page)
    assert sorted(anchors) == sorted(rule.id for rule in CATALOGUE)
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= set(anchors)


def test_all_rules_are_listed() -> None:
    code, shown, _ = invoked("list", "--json")
    assert code == 0
    assert [rule["id"] for rule in json.loads(shown)] == [rule.id for rule in CATALOGUE]
    code, shown, _ = invoked("list")
    assert code == 0
    assert "kl_high" in shown


def test_one_family_is_listed_alone() -> None:
    code, shown, _ = invoked("list", "--family", "value", "--json")
    assert code == 0
    assert {rule["family"] for rule in json.loads(shown)} == {"value"}


def test_a_family_that_there_is_not_is_refused_with_the_nearest() -> None:
    code, shown, said = invoked("list", "--family", "gradiant")
    assert (code, shown) == (1, "")
    assert 'did you mean "gradient"?' in said


@pytest.mark.parametrize("rule", CATALOGUE, ids=lambda rule: rule.id)
def test_every_rule_can_be_shown(rule: object) -> None:
    (known,) = [one for one in CATALOGUE if one is rule]
    code, shown, _ = invoked("show", known.id)
    assert code == 0
    assert known.id in shown
    assert known.remedy in shown
    assert known.source in shown


def test_a_rule_is_shown_as_json() -> None:
    code, shown, _ = invoked("show", "kl_high", "--json")
    assert code == 0
    assert json.loads(shown)["id"] == "kl_high"


def test_a_rule_that_there_is_not_is_refused_with_the_nearest() -> None:
    code, shown, said = invoked("show", "kl_hihg")
    assert (code, shown) == (1, "")
    assert said == 'rlhfd: kl_hihg: no rule of this name; did you mean "kl_high"?\n'


@pytest.mark.parametrize(
    ("clause", "words"),
    [
        (Clause(Signal(metric="m"), ">", 0.5), "m > 0.5"),
        (Clause(Signal(metric="m", take="mean", over=5, against="baseline"), "<", 2.0),
         "mean of the last 5 m < 2 times usual"),
        (Clause(Signal(metric="m", against="first"), ">", 3.0), "m > 3 times that at first"),
        (Clause(Signal(metric="m", take="drawdown", over=10), ">", 0.3),
         "loss of m (mean of 10) since its best, as a share of its range, > 0.3"),
        (Clause(Signal(metric="m", by="n", absolute=True), ">=", Argument(("a.b", "c"), 0.98)),
         "|m| × n >= 0.98 × --a.b"),
        (Clause(Signal(metric="m"), "<", Argument(("a.b",))), "m < --a.b"),
    ],
)  # fmt: skip
def test_a_clause_reads_as_one_would_say_it(clause: Clause, words: str) -> None:
    assert in_words(clause) == words


def test_the_rules_that_alerts_link_to_can_be_found() -> None:
    assert find("level_change") is not None
    assert find("nothing") is None
