"""Rules that users write: what they mean, and what is said about those that mean nothing."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.config import load
from rlhfd_daemon.errors import ConfigError
from rlhfd_daemon.rules import Clause, Rule, Signal
from rlhfd_daemon.rules.catalogue import CATALOGUE
from rlhfd_daemon.rules.toml_lines import lines_of
from rlhfd_daemon.rules.user import RuleFile, read_rules, user_rules
from rlhfd_daemon.rules.user_tests import series_of

SMALL = 'id = "mine"\nmetric = "train/kl"\ncondition = "> 0.5"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def read(file: Path, text: str) -> RuleFile:
    file.write_text(dedent(text), encoding="utf-8")
    return read_rules([file])[0]


def rule_of(file: Path, fields: str) -> Rule:
    (rule,) = read(file, f"[[rule]]\n{SMALL}{fields}").rules
    return rule


def refusals(file: Path, text: str) -> list[str]:
    """The lines that a bad file is refused with, without its path."""
    with pytest.raises(ConfigError) as error:
        read(file, text)
    lines = str(error.value).splitlines()
    assert all(line.startswith(str(file)) for line in lines)
    return [line.removeprefix(f"{file}:") for line in lines]


def refusal(file: Path, fields: str) -> str:
    (line,) = refusals(file, f"[[rule]]\n{SMALL}{fields}")
    return line


def test_a_small_rule_has_sensible_defaults(file: Path) -> None:
    rule = rule_of(file, "")
    assert rule.when == (Clause(Signal(metric="train/kl"), ">", 0.5),)
    assert (rule.id, rule.severity, rule.family, rule.hold) == ("mine", Severity.WARNING, "custom", (1, 1))
    assert rule.summary == "{metric} is {value} at step {step} (> 0.5)"
    assert (rule.missing, rule.runs, rule.labels, rule.keep, rule.after) == ("unknown", (), (), 0, 0)


def test_every_field_arrives_in_the_rule(file: Path) -> None:
    text = """
        [[rule]]
        id = "everything"
        metric = "train/kl"
        condition = "<= -1_000.5e-2"
        aggregation = "mean"
        window = 10
        against = "baseline"
        absolute = true
        times = "train/response_length"
        for = "3 of 5"
        keep_firing_for = 8
        after = 20
        severity = "info"
        critical = -20
        family = "kl"
        summary = "{metric} {labels.team}"
        remedy = "do"
        missing = "alert"
        runs = ["my-*"]
        and = [{metric = "train/reward", condition = "< 0", aggregation = "slope", window = 30, against = "first"}]
        [rule.labels]
        team = "rl"
        """
    (rule,) = read(file, text).rules
    first = Signal(
        metric="train/kl", take="mean", over=10, against="baseline", absolute=True, by="train/response_length"
    )
    second = Signal(metric="train/reward", take="slope", over=30, against="first")
    assert rule == Rule(
        id="everything", title="everything", family="kl", severity=Severity.INFO,
        when=(Clause(first, "<=", -10.005), Clause(second, "<", 0.0)), metrics=("train/kl", "train/reward"),
        hold=(3, 5), keep=8, after=20, critical=-20.0, summary="{metric} {labels.team}", remedy="do",
        source="a rule of the user", missing="alert", runs=("my-*",), labels=(("team", "rl"),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("written", "hold"), [("3", (3, 3)), ('"3"', (3, 3)), ('"3 of 5"', (3, 5)), ('"3of5"', (3, 5))]
)
def test_for_is_a_number_of_steps_in_a_row_or_of_the_last_ones(file: Path, written: str, hold: tuple[int, int]) -> None:
    assert rule_of(file, f"for = {written}").hold == hold


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ('severty = "info"', '5: rule mine: severty: unknown field; did you mean "severity"?'),
        ('expr = "x"', "5: rule mine: expr: unknown field; here it is called metric and condition"),
        ('annotations = "x"', "5: rule mine: annotations: unknown field; here it is called summary and remedy"),
        ('severity = "warn"', '5: rule mine: severity: "warn" is not known; did you mean "warning"?'),
        ('family = "rewards"', '5: rule mine: family: "rewards" is not known; did you mean "reward"?'),
        (
            'aggregation = "avg"\nwindow = 3',
            '5: rule mine: aggregation: "avg" is not known; must be one of: last',
        ),
        ('aggregation = "mean"', "5: rule mine: aggregation: needs a window: over how many values"),
        ("window = 10", '5: rule mine: window: needs an aggregation over it, such as aggregation = "mean"'),
        ('window = 2\naggregation = "slope"', "5: rule mine: window: slope needs at least 3 values"),
        ("window = 0", "5: rule mine: window: must be a whole number, 1 to 500"),
        ("window = true", "5: rule mine: window: must be a whole number, 1 to 500"),
        ("for = 0", '5: rule mine: for: must be a number of steps, 1 to 500, or such as "3 of 5"'),
        ('for = "5 of 3"', '5: rule mine: for: must be a number of steps, 1 to 500, or such as "3 of 5"'),
        ("for = true", '5: rule mine: for: must be a number of steps, 1 to 500, or such as "3 of 5"'),
        ("critical = 0.4", "5: rule mine: critical: is reached before the condition itself (> 0.5)"),
        ('critical = "x"', "5: rule mine: critical: must be a number"),
        ("critical = nan", "5: rule mine: critical: must be a number"),
        ('missing = "okay"', '5: rule mine: missing: "okay" is not known; did you mean "ok"?'),
        ('against = "base"', '5: rule mine: against: "base" is not known; did you mean "baseline"?'),
        ('summary = "{valu}"', '5: rule mine: summary: {valu} is no placeholder; did you mean "value"?'),
        ('summary = "{0.__class__}"', "5: rule mine: summary: {0.__class__} is no placeholder; valid here: metric"),
        ('remedy = "{}"', "5: rule mine: remedy: {} is no placeholder; valid here: metric"),
        ('summary = "{labels.x}"', "5: rule mine: summary: {labels.x} is no label of this rule; its labels: none"),
        ("labels = {team = 1}", "5: rule mine: labels: must be texts by name, such as"),
        ('labels = {rank = "1"}', '5: rule mine: labels: "rank" is no name for a label'),
        ('runs = "my-*"', '5: rule mine: runs: must be a list of texts, such as ["my-*"]'),
        ("absolute = 1", "5: rule mine: absolute: must be true or false"),
        ("and = 1", "5: rule mine: and: must be a list of tables"),
        ('times = "a<b>"', "5: rule mine: times: a name with <...> must be one of the metric table"),
        ('and = [\n{metric = "x", condition = "> 1"},\n{metric = "x", conditon = "> 1"}]', None),
    ],
)
def test_a_bad_field_is_refused_with_its_line_its_name_and_the_nearest_valid_one(
    file: Path, fields: str, expected: str | None
) -> None:
    if expected is not None:
        assert refusal(file, fields).startswith(expected)
        return
    assert refusals(file, f"[[rule]]\n{SMALL}{fields}") == [
        '7: rule mine: and[2].conditon: unknown field; did you mean "condition"?',
        "7: rule mine: and[2].condition: is missing",
    ]


@pytest.mark.parametrize(
    "condition", ["0.5", "> ", "> x", "=> 1", "> nan", "> inf", "> 1e999", "> 1 + 1", ">> 1", "> __import__"]
)
def test_a_condition_is_one_comparison_with_a_finite_number_and_nothing_else(file: Path, condition: str) -> None:
    lines = refusals(file, f'[[rule]]\nid = "a"\nmetric = "train/kl"\ncondition = "{condition}"\n')
    assert len(lines) == 1
    assert lines[0].startswith('4: rule a: condition: must be a comparison with a number, such as "> 0.5"')


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(file: Path) -> None:
    text = """
        # a comment with [[rule]] in it
        [[rule]]
        metric = "train/kl"
        summary = '''
        id = 1
        '''
        condition = 5

        [[rule]]
        id = "b"
        condition = "> 1"
        metric = ""
        [[test]]
        series = {"train/kl" = "1 2 x"}
        absent = ["c"]
        [[tests]]
        """
    assert [line.split(":")[:3] for line in refusals(file, text)] == [
        ["3", " rule 1", " id"], ["8", " rule 1", " condition"], ["13", " rule b", " metric"],
        ["15", " test 1", " series.train/kl"], ["16", " test 1", " absent[1]"],
        ["17", " tests", ' unknown; did you mean "test"?'],
    ]  # fmt: skip


def test_an_id_is_given_once_and_a_built_in_one_is_to_be_overridden(file: Path, tmp_path: Path) -> None:
    built_in = CATALOGUE[0].id
    (line,) = refusals(file, f'[[rule]]\nid = "{built_in}"\nmetric = "train/kl"\ncondition = "> 1"')
    assert line.startswith(f'2: rule {built_in}: id: "{built_in}" is a built-in rule; to change its limits, write [')
    assert f"[analyzers.rules.override.{built_in}]" in line
    other = tmp_path / "other.toml"
    other.write_text(f"[[rule]]\n{SMALL}")
    file.write_text(f"[[rule]]\n{SMALL}")
    with pytest.raises(ConfigError, match=re.escape(f'{other}:2: rule mine: id: "mine" is already at {file}:2')):
        user_rules([str(file), str(other)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"[[rule]\n", "not valid TOML: "), (b"\xff\xfe", "not UTF-8 text (byte 0)"),
        (b"#" * 300_000, "longer than 256 KiB"),
        (b"rule = 1", "must be an array of tables: [[rule]]"),
        (b"[rule]\nid = 'x'", "must be an array of tables: [[rule]]"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_refused_in_one_line(file: Path, text: bytes, expected: str) -> None:
    file.write_bytes(text)
    with pytest.raises(ConfigError) as error:
        read_rules([file])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_rules([tmp_path / "none.toml"])


def test_a_metric_that_is_nearly_one_of_the_table_is_hinted_at_and_taken(file: Path) -> None:
    found = read(file, '[[rule]]\nid = "a"\nmetric = "train/kll"\ncondition = "> 1"\n')
    assert [rule.id for rule in found.rules] == ["a"]
    (hint,) = found.hints
    assert hint.field == f"{file}:3: rule a: metric"
    assert hint.message == 'train/kll is not in the metric table; did you mean "train/kl"?'
    assert read(file, '[[rule]]\nid = "a"\nmetric = "judge/score"\ncondition = "> 1"\n').hints == ()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1 2.5 -3", [1, 2.5, -3]), ("3x2", [3, 3, 3]), ("_ _x2", [None, None, None]),
        ("1+2x2 1-0.5x2", [1, 3, 5, 1, 0.5, 0]),
        ("1e3 .5", [1000, 0.5]), ("-1x0", [-1]), ("Inf -Inf", [float("inf"), float("-inf")]), ("", []),
    ],
)  # fmt: skip
def test_series_are_written_as_for_promtool(text: str, values: list[float | None]) -> None:
    assert series_of(text) == values


@pytest.mark.parametrize("text", ["x", "1+2", "3xx", "1 2y", "_x", "1e5x999999", "+x3"])
def test_a_series_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r'neither a number|how often|more than|"'):
        series_of(text)


def test_lines_are_found_in_every_spelling_of_tables_and_arrays() -> None:
    text = dedent(
        '''
        rule = [
          {id = "a", metric = "{,"},  # {
          # {
          {id = "b", labels = {x = "["}},
        ]
        [[test]]
        "quoted key" = 1
        series."train/kl" = """
        [[no]]
        no = 1 \\"""
        """
        [test.args]
        a.b = 'it''s'
        [[test.expect]]
        rule = "x"
        [[test.expect]]
        rule = "y"
        '''
    )
    lines = lines_of(text)
    assert lines[("rule", 0)] == 3
    assert lines[("rule", 1)] == 5
    assert lines[("test", 0)] == 7
    assert lines[("test", 0, "quoted key")] == 8
    assert lines[("test", 0, "series", "train/kl")] == 9
    assert lines[("test", 0, "args")] == 13
    assert lines[("test", 0, "args", "a", "b")] == 14
    assert lines[("test", 0, "expect", 1, "rule")] == 18
    assert not [place for place in lines if "no" in place]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="[]{}=.\"'#\n, \\ab1", max_size=80))
def test_lines_of_any_text_are_found_without_a_crash(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in lines_of(text).values())


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ('files = ["nope.toml"]', "nope.toml: cannot be read: No such file or directory"),
        ('files = ["bad.toml"]', "bad.toml:4: rule mine: condition: must be a comparison"),
        ('mute = ["klx*"]', 'analyzers.rules.mute: "klx*" matches no rule; '),
        ("override.no_such_rule_at_all.limit = 1", "no_such_rule_at_all: no such rule; `rlhfd rules list`"),
        ('files = ["good.toml"]\noverride.minee.limit = 1', 'rules.override.minee: no such rule; did you mean "mine"?'),
        ('files = ["good.toml"]\noverride.mine.hold = "5 of 3"', "override.mine.hold: must be a number of steps"),
        ('files = ["good.toml"]\noverride.mine.limits = 1', 'override.mine.limits: unknown key; did you mean "limit"?'),
        ('[analyzers.rules.runs."x*"]\nmute = ["nope"]', 'analyzers.rules.runs."x*".mute: "nope" matches no rule'),
    ],
)  # fmt: skip
def test_a_configuration_with_bad_rules_is_refused(tmp_path: Path, section: str, expected: str) -> None:
    (tmp_path / "good.toml").write_text(f"[[rule]]\n{SMALL}")
    (tmp_path / "bad.toml").write_text("[[rule]]\n" + SMALL.replace("> 0.5", "about 0.5"))
    config = tmp_path / "rlhfd.toml"
    config.write_text(f"[analyzers.rules]\n{section}\n")
    with pytest.raises(ConfigError) as error:
        load(config, {"HOME": "/root"})
    assert expected in str(error.value)
    assert str(error.value).startswith(f"{config}: ")


def test_rule_files_lie_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(f"[[rule]]\n{SMALL}")
    config = tmp_path / "rlhfd.toml"
    config.write_text('[analyzers.rules]\nfiles = ["good.toml"]\noverride.mine.hold = "2 of 3"\n')
    loaded = load(config, {"HOME": "/root"})
    assert loaded.analyzers.rules.files == (str(tmp_path / "good.toml"),)
