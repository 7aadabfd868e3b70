"""The metric registry: every key has one row, values come in the row's unit, and the page says what the table says."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from rlhfd_daemon.cli import app
from rlhfd_daemon.frame import decode
from rlhfd_daemon.metrics import TABLE, Framework, KeyRange, RunContext, find, lookup, normalise
from rlhfd_daemon.metrics.metric import Unit, release
from rlhfd_daemon.recording import read
from rlhfd_daemon.segment import Record

ROOT = Path(__file__).parents[2]
RECORDINGS = sorted((ROOT / "daemon" / "rlhfd_daemon" / "recordings").glob("*.xz"))
EXTRA_LOGS = {"train/true_score", "train/answer_tokens"}  # of the recorded run's own reward function


def invoked(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = CliRunner().invoke(app, ["metrics", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("earlier", "later"),
    [("0.9.9", "0.9.10"), ("0.9.10", "0.10.0"), ("0.10.4", "0.11"), ("0.11", "0.11.1"), ("0.9.1.post1", "0.9.2")],
)
def test_versions_compare_by_number(earlier: str, later: str) -> None:
    first, second = release(earlier), release(later)
    assert first is not None
    assert second is not None
    assert first < second


@pytest.mark.parametrize("same", ["0.10", "0.10.0", "v0.10.0", "0.10.0.post2", "0.10.0rc1", "0.10+local"])
def test_spellings_of_one_release_are_equal(same: str) -> None:
    assert release(same) == (0, 10)


@pytest.mark.parametrize("text", [None, "", "main", "unknown", "v"])
def test_what_is_no_version_is_none(text: str | None) -> None:
    assert release(text) is None


@pytest.mark.parametrize(
    ("version", "covered"),
    [("0.9.8", False), ("0.9.9", True), ("0.9.10", True), ("0.10.1.post1", True), ("0.10.2", False), (None, True)],
)
def test_a_key_range_includes_both_ends(version: str | None, covered: bool) -> None:
    assert KeyRange("k", "0.9.9", "0.10.1").covers(version) is covered


def test_names_keys_and_aliases_are_unique() -> None:
    for names in (
        [row.name for row in TABLE],
        [key.key for row in TABLE for key in row.keys],
        [alias for row in TABLE for alias in row.aliases_trl],
        [alias for row in TABLE for alias in row.aliases_verl],
    ):
        assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_row_is_complete_and_found_by_each_of_its_keys(row: object) -> None:
    (metric,) = [known for known in TABLE if known is row]
    assert metric.unit in get_args(Unit)
    assert metric.meaning.endswith(".")
    assert metric.role
    assert all(release(key.first) and (key.last is None or release(key.last)) for key in metric.keys)
    assert {lookup(key.key) for key in metric.keys} == {metric}
    assert {lookup(alias, "trl") for alias in metric.aliases_trl} <= {metric}
    assert {lookup(alias, "verl") for alias in metric.aliases_verl} <= {metric}
    still = [key.key for key in metric.keys if key.last is None]
    assert not still or metric.name in still


FOUND: list[tuple[str, Framework, str | None]] = [
    ("train/kl", "openrlhf", "train/kl"),
    ("kl", "openrlhf", "train/kl"),
    ("timing/generation", "openrlhf", "train/timing/generation"),
    ("eval_num_samples", "openrlhf", "eval/eval_num_samples"),
    ("acc_mean", "openrlhf", "train/acc_mean"),
    ("eval/acc_mean", "openrlhf", "eval/acc_mean"),
    ("eval/eval_gsm8k_pass1", "openrlhf", "eval/eval_<datasource>_pass1"),
    ("eval/eval_gsm8k_pass16", "openrlhf", "eval/eval_<datasource>_pass<n>"),
    ("eval/eval_a/b_pass_c_truncated_rate", "openrlhf", "eval/eval_<datasource>_truncated_rate"),
    ("eval/eval_truncated_rate", "openrlhf", "eval/eval_truncated_rate"),
    ("eval/eval_gsm8k_passx", "openrlhf", None),
    ("train/true_score", "openrlhf", None),
    ("actor/ppo_kl", "openrlhf", None),
    ("", "openrlhf", None),
    ("clip_ratio/region_mean", "trl", "train/ppo_clip_ratio"),
    ("train/clip_ratio/region_mean", "trl", "train/ppo_clip_ratio"),
    ("eval_rewards/accuracies", "trl", "eval/acc_mean"),
    ("rewards/accuracies", "trl", "train/acc"),
    ("reward", "trl", "train/rollout/reward_mean"),
    ("objective/kl", "trl", None),
    ("actor/ppo_kl", "verl", "train/ppo_kl"),
    ("train/loss", "verl", "train/gpt_loss"),
    ("val-core/gsm8k/reward/mean@4", "verl", "eval/eval_<datasource>_pass1"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "framework", "name"), FOUND)
def test_keys_of_each_framework_are_found(key: str, framework: Framework, name: str | None) -> None:
    row = lookup(key, framework)
    assert (row.name if row is not None else None) == name


@pytest.mark.parametrize(
    ("key", "version", "known"),
    [
        ("train/ppo_kl", "0.8.7", False), ("train/ppo_kl", "0.8.8", True), ("train/ppo_kl", "0.8.10", True),
        ("train/is_filter_ratio", "0.11.0", False), ("train/is_filter_ratio", "0.11.2", True),
        ("train/num_actions", "0.6.4", True), ("train/num_actions", "0.7.0", False), ("train/ppo_kl", "main", True),
    ],
)  # fmt: skip
def test_a_version_only_knows_its_own_keys(key: str, version: str, known: bool) -> None:
    assert (lookup(key, version=version) is not None) is known


def test_any_framework_s_name_finds_a_row_and_openrlhf_s_meaning_wins() -> None:
    found = {key: find(key) for key in ("reward", "actor/pg_loss", "frac_reward_zero_std")}
    assert {key: row and row.name for key, row in found.items()} == {
        "reward": "train/reward", "actor/pg_loss": "train/policy_loss",
        "frac_reward_zero_std": "rlhfd/group/zero_std_ratio",
    }  # fmt: skip


def test_every_metric_of_the_shipped_recordings_is_in_the_table() -> None:
    frames = [decode(item.payload) for path in RECORDINGS for item in read(path) if isinstance(item, Record)]
    keys = {key for frame in frames for key in frame.metrics}
    assert len(keys) > 30
    assert {key for key in keys if lookup(key, version="0.11.2") is None} == EXTRA_LOGS


FLAT = {"n_samples_per_prompt": 8}
NESTED = {"rollout.n_samples_per_prompt": 8}
PASS_RATE: list[tuple[str | None, Mapping[str, object], float, float | None]] = [
    ("0.8.1", FLAT, 50.0, 0.5),
    ("0.9.0", FLAT, 50.0, 0.5),
    ("0.9.8", FLAT, 50.0, 0.5),
    ("0.9.9", FLAT, 400.0, 0.5),
    ("0.9.10", FLAT, 400.0, 0.5),
    ("0.11.2", NESTED, 800.0, 1.0),
    ("0.11.2", {}, 400.0, None),
    ("0.11.2", {"rollout.n_samples_per_prompt": 0}, 400.0, None),
    ("0.11.2", {"rollout.n_samples_per_prompt": "8"}, 400.0, None),
    (None, NESTED, 400.0, None),
]


@pytest.mark.parametrize(("version", "args", "logged", "ratio"), PASS_RATE)
def test_the_pass_rate_is_a_ratio_in_every_version(
    version: str | None, args: Mapping[str, object], logged: float, ratio: float | None
) -> None:
    context = RunContext(version, args, "PPOTrainer")
    assert normalise("train/dynamic_filtering_pass_rate", logged, context) == ratio


@pytest.mark.parametrize("key", ["train/kl", "train/logprobs_diff"])
@pytest.mark.parametrize(
    ("version", "args", "known"),
    [
        ("0.11.2", {"algo.kl.init_coef": 0}, False),
        ("0.11.2", {"algo.kl.init_coef": 0.0}, False),
        ("0.11.2", {"algo.kl.init_coef": 0.01}, True),
        ("0.11.2", {}, True),
        ("0.10.1", {"init_kl_coef": 0}, False),
        ("0.6.0", {"init_kl_coef": 0}, False),
        ("0.5.9", {"init_kl_coef": 0}, True),
        (None, {"algo.kl.init_coef": 0}, False),
    ],
)
def test_divergence_from_no_reference_model_is_unknown(
    key: str, version: str | None, args: Mapping[str, object], known: bool
) -> None:
    assert normalise(key, 0.0, RunContext(version, args, "PPOTrainer")) == (0.0 if known else None)


@pytest.mark.parametrize(
    "key",
    ["train/truncated", "truncated", "train/rollout/truncated_rate", "eval/eval_truncated_rate",
     "eval/eval_gsm8k_truncated_rate"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("version", "args", "known"),
    [
        ("0.11.0", {"train.agent_func_path": "agent.py"}, False),
        ("0.9.7", {"agent_func_path": "agent.py"}, False),
        (None, {"train.agent_func_path": "agent.py"}, False),
        ("0.11.1", {"train.agent_func_path": "agent.py"}, True),
        ("0.11.0", {"train.agent_func_path": None}, True),
        ("0.11.0", {"train.agent_func_path": ""}, True),
        ("0.11.0", {}, True),
    ],
)
def test_truncation_that_an_agent_never_looked_at_is_unknown(
    key: str, version: str | None, args: Mapping[str, object], known: bool
) -> None:
    assert normalise(key, 0.0, RunContext(version, args)) == (0.0 if known else None)


@pytest.mark.parametrize("key", ["train/policy_loss", "train/ppo_kl", "train/true_score", "", "train/response_length"])
@pytest.mark.parametrize("value", [0.0, -1.5, 400.0, math.inf])
def test_other_values_pass_through(key: str, value: float) -> None:
    context = RunContext("0.11.2", {"algo.kl.init_coef": 0, "train.agent_func_path": "a.py"}, "PPOTrainer")
    assert normalise(key, value, context) == value


def test_not_a_number_stays_visible() -> None:
    value = normalise("train/dynamic_filtering_pass_rate", math.nan, RunContext("0.11.2", NESTED))
    assert value is not None
    assert math.isnan(value)


def test_the_page_is_what_the_table_renders_to() -> None:
    code, out, err = invoked("--markdown")
    assert (code, err) == (0, "")
    assert (ROOT / "docs" / "metrics.md").read_text("utf-8") == out, "run: rlhfd metrics --markdown > docs/metrics.md"


def test_the_page_has_one_whole_row_for_every_metric() -> None:
    lines = invoked("--markdown")[1].splitlines()
    for row in TABLE:
        (line,) = [line for line in lines if line.startswith(f"| `{row.name}` |")]
        assert line.replace("\\|", "").count("|") == 8


def test_all_metrics_are_listed_and_given_as_json() -> None:
    code, out, _ = invoked()
    assert code == 0
    assert all(word in out for word in ("METRIC", "train/policy_loss", "nats_per_token"))
    rows = json.loads(invoked("--json")[1])
    assert [row["name"] for row in rows] == [row.name for row in TABLE]


def test_one_metric_is_shown_by_any_of_its_names() -> None:
    for name in ("train/ppo_kl", "ppo_kl", "actor/ppo_kl"):
        code, out, _ = invoked(name)
        assert code == 0
        assert "metric:      train/ppo_kl" in out
        assert "since 0.8.8" in out
    row = json.loads(invoked("ppo_kl", "--json")[1])
    assert (row["unit"], row["keys"][0]["first"], row["aliases_verl"]) == ("nats_per_token", "0.8.8", ["actor/ppo_kl"])


@pytest.mark.parametrize(
    ("key", "says"), [("train/polcy_loss", 'did you mean "train/policy_loss"?'), ("xyzzy", "no metric of this name")]
)
def test_an_unknown_metric_is_one_line_with_the_nearest_name(key: str, says: str) -> None:
    code, out, err = invoked(key)
    assert (code, out) == (1, "")
    assert says in err
    assert len(err.splitlines()) == 1
