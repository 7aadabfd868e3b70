"""Names of other frameworks and older versions become the table's, and no series ever changes its name."""

from __future__ import annotations

import pytest

from rlhfd_daemon.analyzers.families import FAMILIES, family_of
from rlhfd_daemon.analyzers.incident_table import INCIDENTS
from rlhfd_daemon.metrics import TABLE
from rlhfd_daemon.traces.names import Naming, framework_of

OPENRLHF = ("policy_loss", "kl", "reward", "response_length", "actor_lr", "true_score")
TRL = (
    "loss", "grad_norm", "learning_rate", "reward", "reward_std", "kl", "entropy", "completions/mean_length",
    "completions/clipped_ratio", "clip_ratio/region_mean", "rewards/my_reward/mean",
)  # fmt: skip
VERL = (
    "actor/entropy", "actor/kl_loss", "actor/pg_loss", "actor/pg_clipfrac", "actor/grad_norm", "critic/score/mean",
    "response_length/mean", "response_length/clip_ratio", "timing_s/gen", "perf/throughput",
)  # fmt: skip


def canonical(*keys: str) -> list[str]:
    return list(Naming().canonical(dict.fromkeys(keys, 1.0)))


@pytest.mark.parametrize(
    ("keys", "framework"),
    [
        (OPENRLHF, "openrlhf"), ([f"train/{key}" for key in OPENRLHF], "openrlhf"), (TRL, "trl"), (VERL, "verl"),
        ([f"train/{key}" for key in TRL], "trl"), (["loss", "grad_norm", "learning_rate"], "trl"),
        (["reward", "kl"], "openrlhf"), (["val-core/gsm8k/reward/mean@1"], "verl"), (["mine", "yours"], None),
        ([row.name for row in TABLE], "openrlhf"),
    ],
)  # fmt: skip
def test_the_names_tell_the_framework(keys: list[str], framework: str | None) -> None:
    assert framework_of(keys) == framework


def test_openrlhf_s_names_get_their_train_and_unknown_ones_stay() -> None:
    expected = [
        "train/policy_loss",
        "train/kl",
        "train/reward",
        "train/response_length",
        "train/actor_lr",
        "true_score",
    ]
    assert canonical(*OPENRLHF) == expected
    assert canonical(*expected) == expected
    kept = ["eval/eval_gsm8k_pass1", "train/rollout/reward_mean", "perf/experience_maker/generate_time"]
    assert canonical(*kept) == kept


def test_trl_s_and_verl_s_names_become_the_table_s() -> None:
    assert canonical(*TRL) == [
        "loss", "train/grad_norm", "train/lr", "train/rollout/reward_mean", "train/rollout/reward_std", "train/kl",
        "train/entropy_loss", "train/rollout/response_length_mean", "train/rollout/truncated_rate",
        "train/ppo_clip_ratio", "rewards/my_reward/mean",
    ]  # fmt: skip
    assert canonical(*VERL) == [
        "train/entropy_loss", "train/kl", "train/policy_loss", "train/ppo_clip_ratio", "train/actor_grad_norm",
        "train/rollout/reward_mean", "train/rollout/response_length_mean", "train/rollout/truncated_rate",
        "train/timing/generation", "perf/throughput",
    ]  # fmt: skip


def test_of_two_keys_with_one_meaning_the_same_one_always_gets_the_name_and_no_value_is_lost() -> None:
    both = {"actor/entropy_loss": 1.0, "actor/entropy": 2.0, "actor/lr": 3.0}
    expected = {"train/entropy_loss": 2.0, "actor/entropy_loss": 1.0, "train/actor_lr": 3.0}
    for order in (both, dict(reversed(both.items()))):
        naming = Naming()
        for _ in range(2):
            assert naming.canonical(order) == expected
        assert naming.canonical({"actor/entropy_loss": 5.0}) == {"actor/entropy_loss": 5.0}


def test_the_framework_stays_what_it_was_at_first() -> None:
    naming = Naming()
    assert list(naming.canonical({"mine": 1.0})) == ["mine"]
    assert list(naming.canonical({"actor/pg_loss": 1.0})) == ["train/policy_loss"]
    assert list(naming.canonical(dict.fromkeys(TRL, 1.0)))[2] == "learning_rate"
    assert naming.framework == "verl"


@pytest.mark.parametrize(
    ("metric", "family"),
    [
        ("train/kl", "kl"), ("rlhfd/kl/k3", "kl"), ("rlhfd/ratio_of/kl_policy_loss", "kl"), ("train/ppo_kl", "kl"),
        ("train/vllm_kl", "mismatch"), ("rlhfd/mismatch/k3", "mismatch"), ("train/entropy_loss", "entropy"),
        ("train/reward", "reward"), ("train/rollout/reward_std", "reward"), ("train/score", "reward"),
        ("rlhfd/reward/clipped_ratio", "reward"), ("train/return", "reward"), ("true_score", "reward"),
        ("eval/eval_gsm8k_pass1", "reward"), ("train/acc_mean", "reward"), ("train/actor_grad_norm", "gradient"),
        ("train/critic_grad_norm", "gradient"), ("train/values", "value"), ("train/critic_loss", "value"),
        ("rlhfd/explained_variance", "value"), ("rlhfd/ratio_of/value_policy_loss", "value"),
        ("rlhfd/advantage/std", "advantage"), ("train/response_length", "length"), ("train/truncated", "length"),
        ("train/response_clip_ratio", "length"), ("train/ppo_clip_ratio", "clip"), ("actor/pg_clipfrac", "clip"),
        ("train/timing/generation", "throughput"), ("rlhfd/generation/tokens_per_second", "throughput"),
        ("phase/generation/seconds", "throughput"), ("train/actor_lr", "schedule"), ("train/critic_lr", "schedule"),
        ("gpu/0/temperature_celsius", "system"), ("host/memory_available_bytes", "system"),
        ("train/dynamic_filtering_pass_rate", "data"), ("rlhfd/correlation/reward_length", "hacking"),
        ("checkpoint/seconds", "checkpoint"), ("train/policy_loss", "custom"), ("my_metric", "custom"),
    ],
)  # fmt: skip
def test_a_metric_s_family_is_what_its_trouble_is_called(metric: str, family: str) -> None:
    assert family_of(metric) == family


def test_every_family_is_one_of_the_list() -> None:
    assert {family_of(row.name) for row in TABLE} <= set(FAMILIES)
    assert {row.family for row in INCIDENTS} <= set(FAMILIES)
