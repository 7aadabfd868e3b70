"""Rules that could not be looked at are told: how many always, which and why when asked."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from rlhfd_daemon.cli import app
from rlhfd_daemon.rules.unchecked import Unchecked
from rlhfd_daemon.unchecked_report import lines

CRITIC = Unchecked("critic_loss_high", "not checked: key train/critic_loss absent")
OTHER = Unchecked("critic_loss_rises", "not checked: key train/critic_loss absent")
FOREIGN = Unchecked("sft_loss_high", "does not apply: it is for runs with supervised training")


def checked(tmp_path: Path, *options: str) -> str:
    log = tmp_path / "log.jsonl"
    log.write_text(
        "".join(json.dumps({"step": step, "train/kl": 0.1, "train/reward": 0.5}) + "\n" for step in range(9))
    )
    return CliRunner().invoke(app, ["check", str(log), *options]).output


def test_rules_that_lack_the_same_are_told_together_and_those_for_other_runs_not_at_all() -> None:
    told = [line.plain for line in lines([CRITIC, OTHER, FOREIGN], 80, whole=True)]
    assert told == ["not checked: key train/critic_loss absent", "    critic_loss_high, critic_loss_rises", ""]


def test_without_the_option_their_number_is_told_and_nothing_if_there_are_none() -> None:
    (told,) = lines([CRITIC, OTHER, FOREIGN], 80, whole=False)
    assert told.plain.startswith("2 rules not checked")
    assert list(lines([FOREIGN], 80, whole=False)) == []


def test_check_says_how_many_and_with_the_option_why(tmp_path: Path) -> None:
    assert "rules not checked, for want of what they read" in checked(tmp_path)
    assert "not checked: key train/critic_loss absent" in checked(tmp_path, "--unchecked")


def test_json_has_one_object_a_rule_and_only_when_asked(tmp_path: Path) -> None:
    assert checked(tmp_path, "--json") == ""
    found = [json.loads(line) for line in checked(tmp_path, "--json", "--unchecked").splitlines()]
    assert {one["kind"] for one in found} == {"not_checked"}
    assert "critic_loss_high" in {one["rule"] for one in found}
    assert "kl_high" not in {one["rule"] for one in found}
