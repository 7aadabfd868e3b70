"""`rlhfd rules test`, and rules where they belong: in the configuration, over a log, beside the built-in ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from rlhfd_daemon.check import Check
from rlhfd_daemon.config import AnalyzersConfig, load
from rlhfd_daemon.rules.trial import Trial, failures
from rlhfd_daemon.rules.user import read_rules
from rlhfd_daemon.rules_test_cli import test_command as command

DOCS = Path(__file__).parents[2] / "docs"
RULES = """\
[[rule]]
id = "kl_mine"
metric = "train/kl"
condition = "> 0.5"
for = "2 of 3"
"""


def rules_test(*arguments: Path) -> tuple[int, str]:
    """Exit code, and all that was said."""
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    return result.exit_code, result.output


def written(folder: Path, text: str, name: str = "rules.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def log(folder: Path, values: list[float], key: str = "train/kl") -> Path:
    lines = [json.dumps({"step": step, key: value}) for step, value in enumerate(values, 1)]
    return written(folder, "\n".join(lines), "log.jsonl")


def test_tests_that_pass_are_told_and_exit_with_0(tmp_path: Path) -> None:
    test = """
        [[test]]
        name = "two high values"
        series = {"train/kl" = "0.1 0.9x1 0.1x5"}
        expect = [
          {rule = "kl_mine", step = 3, onset_step = 2, severity = "warning"},
          {rule = "kl_mine", state = "resolved", step = 6},
        ]
        [[test]]
        series = {"train/kl" = "0.1 0.9 0.1x5"}
        absent = ["kl_mine"]
        """
    code, said = rules_test(written(tmp_path, RULES + test))
    assert said.splitlines() == ["passed  two high values", "passed  test 2", "1 rule, 2 tests, 0 failed"]
    assert code == 0


def test_a_test_that_fails_says_what_came_instead_and_exits_with_1(tmp_path: Path) -> None:
    test = """
        [[test]]
        name = "wrong"
        series = {"train/kl" = "0.9x5"}
        expect = [{rule = "kl_mine", step = 9}, {rule = "kl_mine", severity = "critical"}]
        absent = ["kl_mine"]
        [[test]]
        name = "silent"
        series = {"train/kl" = "0.1x5"}
        expect = [{rule = "kl_mine"}]
        """
    code, said = rules_test(written(tmp_path, RULES + test))
    came = "it is firing at step 2 (warning since step 1)"
    assert said.splitlines() == [
        "FAILED  wrong",
        f"        expected kl_mine firing at step 9; {came}",
        f"        expected kl_mine firing with severity critical; {came}",
        f"        expected kl_mine to be silent; {came}",
        "FAILED  silent",
        "        expected kl_mine firing; it never fires",
        "1 rule, 2 tests, 2 failed",
    ]
    assert code == 1


@pytest.mark.parametrize(
    ("expected", "is_met"),
    [
        ("onset_step = 2", True), ("onset_step = 3", False), ("step = 3", True), ("step = 2", False),
        ('severity = "warning"', True), ('severity = "info"', False), ('state = "resolved"', False),
    ],
)  # fmt: skip
def test_each_field_of_an_expectation_must_be_met(tmp_path: Path, expected: str, is_met: bool) -> None:
    test = f'[[test]]\nseries = {{"train/kl" = "0.1 0.9x1"}}\nexpect = [{{rule = "kl_mine", {expected}}}]\n'
    code, said = rules_test(written(tmp_path, RULES + test))
    assert code == (0 if is_met else 1), said


def test_a_step_without_any_value_is_a_step_too(tmp_path: Path) -> None:
    rules = RULES + 'missing = "alert"\n'
    test = """
        [[test]]
        series = {"train/kl" = "0.1 _ _ _ _"}
        expect = [{rule = "kl_mine", onset_step = 3, step = 4}]
        [[test]]
        series = {"train/kl" = "0.1 _ 0.1 0.1 0.1"}
        absent = ["kl_mine"]
        """
    code, said = rules_test(written(tmp_path, rules + test))
    assert code == 0, said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RULES.replace("for", "fro"), 'rules.toml:5: rule kl_mine: fro: unknown field; did you mean "for"?'),
        ("x = ", "not valid TOML"),
        (f'{RULES}[[test]]\ntrace = "none.jsonl"\nabsent = ["kl_mine"]\n', "none.jsonl"),
    ],
)
def test_bad_input_exits_with_3(tmp_path: Path, text: str, said: str) -> None:
    code, output = rules_test(written(tmp_path, text))
    assert code == 3
    assert said in output


def test_a_hint_at_a_metric_that_may_be_misspelt_is_told_but_no_mistake(tmp_path: Path) -> None:
    code, said = rules_test(written(tmp_path, RULES.replace("train/kl", "train/kll")))
    assert 'train/kll is not in the metric table; did you mean "train/kl"?' in said
    assert code == 0


def test_a_log_shows_what_the_rules_would_have_found_in_it(tmp_path: Path) -> None:
    silent = '[[rule]]\nid = "low"\nmetric = "train/kl"\ncondition = "< 0"\n'
    lacking = '[[rule]]\nid = "judged"\nmetric = "judge/score"\ncondition = "< 0"\n'
    rules = written(tmp_path, RULES + silent + lacking)
    code, said = rules_test(rules, log(tmp_path, [0.1, 0.9, 0.9, 0.1, 0.1, 0.1]))
    first, second, third, fourth = said.splitlines()
    assert first == "kl_mine: firing at step 3 (warning since step 2): train/kl is 0.9 at step 3 (> 0.5)"
    assert second == "kl_mine: resolved at step 6"
    assert third == "low: never fires"
    assert fourth.startswith("judged: not checked: key judge/score absent")
    assert code == 0
    assert rules_test(rules, tmp_path / "nothing.jsonl")[0] == 3


def test_a_test_may_read_a_log_and_a_run_may_have_arguments(tmp_path: Path) -> None:
    log(tmp_path, [0.9, 0.9], key="kl")
    text = f'{RULES}[[test]]\ntrace = "log.jsonl"\nargs = {{a = 1}}\nexpect = [{{rule = "kl_mine", step = 2}}]\n'
    (file,) = read_rules([written(tmp_path, text)])
    assert failures(file.tests[0], Trial(file.rules).of_test(file.tests[0], tmp_path)) == []


def test_the_page_about_rules_of_ones_own_shows_what_works(tmp_path: Path) -> None:
    page = (DOCS / "rules-user.md").read_text("utf-8")
    configs = re.findall(r"```toml\n# rlhfd.toml\n(.*?)```", page, re.DOTALL)
    (rules,) = re.findall(r"<!-- rules.toml -->\n```toml\n(.*?)```", page, re.DOTALL)
    code, said = rules_test(written(tmp_path, rules))
    assert code == 0, said
    assert said.splitlines()[-1] == "2 rules, 3 tests, 0 failed"
    assert len(configs) == 2
    for config in configs:
        load(written(tmp_path, config, "rlhfd.toml"), {"HOME": "/root"})


def alerts(path: Path, config: AnalyzersConfig) -> list[tuple[str, str, int | None, str]]:
    found = [(one.alert.finding, one) for one in Check(path, config).transitions()]
    return [(finding.rule, one.state.value, one.alert.last_step, finding.severity.value) for finding, one in found]


def only_rules(section: str, folder: Path) -> AnalyzersConfig:
    names = [field.name for field in msgspec.structs.fields(AnalyzersConfig) if field.name != "rules"]
    off = "".join(f"[analyzers.{name}]\nenabled = false\n" for name in names)
    return load(written(folder, f"{off}[analyzers.rules]\n{section}", "rlhfd.toml"), {"HOME": "/root"}).analyzers


def test_a_severity_that_was_asked_for_does_not_rise_to_the_critical_of_the_rule(tmp_path: Path) -> None:
    written(tmp_path, RULES + "critical = 0.8\n")
    path = log(tmp_path, [0.1, 0.9, 0.9, 0.9])
    files = 'files = ["rules.toml"]\nbuilt_in = false\n'
    assert alerts(path, only_rules(files, tmp_path)) == [("kl_mine", "firing", 3, "critical")]
    asked = only_rules(f'{files}override.kl_mine.severity = "info"\n', tmp_path)
    assert alerts(path, asked) == [("kl_mine", "firing", 3, "info")]


def test_rules_of_a_configuration_find_their_alerts_in_a_log(tmp_path: Path) -> None:
    written(tmp_path, RULES)
    path = log(tmp_path, [0.1, 0.9, 0.9])
    config = only_rules('files = ["rules.toml"]\nbuilt_in = false\n', tmp_path)
    assert alerts(path, config) == [("kl_mine", "firing", 3, "warning")]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("override.kl_mine.limit = 0.95", []),
        ('override.kl_mine.hold = 1\noverride.kl_mine.severity = "info"', [("kl_mine", "firing", 2, "info")]),
        ("override.kl_mine.critical = 0.8", [("kl_mine", "firing", 3, "critical")]),
        ('override.kl_mine.critical = 0.8\noverride.kl_mine.severity = "info"', [("kl_mine", "firing", 3, "critical")]),
        ("override.kl_mine.enabled = false", []),
        ('mute = ["kl_*"]', []),
        ('mute = ["kl_*"]\noverride.kl_mine.enabled = true', [("kl_mine", "firing", 3, "warning")]),
        ('runs."log*".mute = ["kl_mine"]', []),
        ('runs."other*".mute = ["kl_mine"]', [("kl_mine", "firing", 3, "warning")]),
        (
            'override.kl_mine.limit = 5\nruns."log*".override.kl_mine.limit = 0.5',
            [("kl_mine", "firing", 3, "warning")],
        ),
    ],
)
def test_overrides_and_mutes_change_what_a_rule_finds(
    tmp_path: Path, section: str, expected: list[tuple[str, str, int | None, str]]
) -> None:
    written(tmp_path, RULES)
    path = log(tmp_path, [0.1, 0.9, 0.9])
    config = only_rules(f'files = ["rules.toml"]\nbuilt_in = false\n{section}\n', tmp_path)
    assert alerts(path, config) == expected
