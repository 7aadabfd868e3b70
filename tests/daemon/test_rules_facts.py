"""What is known about a run from its arguments and metrics, and why it does not send a metric."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from rlhfd_daemon.frame import decode
from rlhfd_daemon.recording import read
from rlhfd_daemon.rules.absent import why
from rlhfd_daemon.rules.facts import FACTS, Facts
from rlhfd_daemon.rules.rule import Fact
from rlhfd_daemon.runs import DAEMON_ROLE
from rlhfd_daemon.sample import Happening, Sample
from rlhfd_daemon.segment import Record

RECORDING = Path(__file__).parents[2] / "daemon" / "rlhfd_daemon" / "recordings" / "ppo_reward_constant.log.xz"
GRPO = {
    "algo.advantage.estimator": "group_norm",
    "algo.kl.init_coef": 0.01,
    "algo.kl.use_loss": True,
    "algo.advantage.is_correction_level": "off",
    "algo.dynamic_filtering_enable": False,
    "actor.entropy_coef": None,
    "reward.remote_url": ["/home/me/reward.py"],
    "rollout.batch_size": 128,
    "rollout.n_samples_per_prompt": 8,
    "rollout.max_new_tokens": 1024,
    "train.batch_size": 1024,
    "train.max_epochs": 1,
    "train.async_enable": False,
}  # fmt: skip


def event(name: str, fields: Mapping[str, object], role: str = "PPOTrainer") -> Happening:
    return Happening("r", "b", role, 0, None, name, fields, 0.0, 0)


def told(args: Mapping[str, object], trainer: str | None = "PPOTrainer", version: str | None = "0.11.2") -> Facts:
    facts = Facts()
    facts.take(event("run_start", {"args": {**args}, "trainer": trainer, "versions": {"openrlhf": version}}))
    return facts


def shown(*metrics: str) -> Facts:
    facts = Facts()
    for metric in metrics:
        facts.see(Sample("r", "b", "PPOTrainer", 0, 1, metric, 0.5, 0.0, 0))
    return facts


def test_nothing_is_known_of_a_run_that_has_told_nothing() -> None:
    facts = Facts()
    assert {facts.get(fact) for fact in FACTS} == {None}
    assert facts.argument(("rollout.max_new_tokens",)) is None


def test_arguments_tell_what_a_grpo_run_is() -> None:
    facts = told(GRPO)
    assert {fact: facts.get(fact) for fact in FACTS} == {
        "critic": False, "reference_model": True, "reward_model": False, "inner_epochs": False, "groups": True,
        "length_cap": True, "async": False, "kl_in_loss": True, "supervised": False,
    }  # fmt: skip
    assert facts.argument(("generate_max_len", "rollout.max_new_tokens")) == 1024


@pytest.mark.parametrize(
    ("changed", "fact", "known"),
    [
        ({"algo.advantage.estimator": "gae"}, "critic", True),
        ({"algo.kl.init_coef": 0}, "reference_model", False),
        ({"algo.kl.init_coef": 1e-8}, "reference_model", True),
        ({"reward.remote_url": None, "reward.model_name_or_path": "rm"}, "reward_model", True),
        ({"reward.remote_url": None}, "reward_model", None),
        ({"reward.remote_url": ["http://rm:5000/score"]}, "reward_model", None),
        ({"reward.remote_url": "agent"}, "reward_model", False),
        ({"train.agent_func_path": "agent.py", "reward.remote_url": ["http://rm"]}, "reward_model", False),
        ({"train.max_epochs": 2}, "inner_epochs", True),
        ({"train.batch_size": 512}, "inner_epochs", True),
        ({"train.batch_size": None}, "inner_epochs", None),
        ({"rollout.n_samples_per_prompt": 1}, "groups", False),
        ({"rollout.max_new_tokens": None}, "length_cap", False),
        ({"train.async_enable": True}, "async", True),
        ({"algo.kl.use_loss": False}, "kl_in_loss", False),
    ],
)  # fmt: skip
def test_each_argument_tells_its_fact(changed: dict[str, object], fact: Fact, known: bool | None) -> None:
    assert told({**GRPO, **changed}).get(fact) is known


def test_flat_arguments_of_old_versions_are_understood() -> None:
    old = {"advantage_estimator": "gae", "init_kl_coef": 0.0, "n_samples_per_prompt": 4, "generate_max_len": 512}
    facts = told(old, version="0.9.0")
    assert [facts.get(fact) for fact in ("critic", "reference_model", "groups")] == [True, False, True]
    assert facts.argument(("rollout.max_new_tokens", "generate_max_len")) == 512
    assert told(old, version="0.5.9").get("reference_model") is True  # loaded whatever the coefficient


@pytest.mark.parametrize(
    ("trainer", "reference"), [("SFTTrainer", False), ("RewardModelTrainer", False), ("DPOTrainer", True)]
)
def test_a_trainer_without_an_estimator_is_supervised(trainer: str, reference: bool) -> None:
    facts = told({"adam.lr": 1e-5, "train.max_epochs": 2}, trainer)
    assert [facts.get(fact) for fact in ("supervised", "critic", "groups")] == [True, False, False]
    assert facts.get("reference_model") is reference


@pytest.mark.parametrize(
    ("metric", "fact", "known"),
    [
        ("train/critic_loss", "critic", True),
        ("train/critic_loss", "supervised", False),
        ("train/group_reward_std", "groups", True),
        ("train/gpt_loss", "supervised", True),
        ("train/acc", "critic", False),
        ("rlhfd/kl/k1", "reference_model", True),
        ("train/policy_loss", "supervised", False),
        ("train/policy_loss", "critic", None),
        ("host/cpu_ratio", "supervised", None),
    ],
)
def test_metrics_show_what_arguments_did_not_tell(metric: str, fact: Fact, known: bool | None) -> None:
    assert shown(metric).get(fact) is known


def test_arguments_count_more_than_metrics() -> None:
    facts = told({**GRPO, "rollout.n_samples_per_prompt": 1})
    facts.see(Sample("r", "b", "PPOTrainer", 0, 1, "train/group_reward_std", 0.0, 0.0, 0))
    assert facts.get("groups") is False


def test_the_daemon_s_summary_after_a_restart_tells_as_much_as_the_start() -> None:
    context = {"context": {"args": GRPO, "trainer": "PPOTrainer", "versions": {"openrlhf": "0.11.2"}}}
    facts = Facts()
    facts.take(event("run_context", {"streams": []}, DAEMON_ROLE))
    assert facts.get("groups") is None
    facts.take(event("run_context", context, "PPOTrainer"))
    assert facts.get("groups") is None  # only the daemon summarises
    facts.take(event("run_context", context, DAEMON_ROLE))
    facts.take(event("phase_begin", {"args": {}}))
    assert facts.get("groups") is True


def test_a_recorded_run_of_openrlhf_is_understood() -> None:
    facts = Facts()
    for record in read(RECORDING):
        if isinstance(record, Record):
            frame = decode(record.payload)
            if frame.event is not None:
                facts.take(event(frame.event, frame.fields, frame.role))
    known = {fact: facts.get(fact) for fact in FACTS}
    assert known == {
        "critic": True, "reference_model": True, "reward_model": False, "inner_epochs": True, "groups": True,
        "length_cap": True, "async": False, "kl_in_loss": False, "supervised": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "args", "reason"),
    [
        ("train/entropy_loss", {}, "--actor.entropy_coef is unset; 0 logs it without changing the loss"),
        ("train/critic_loss", {}, "there is no critic with --algo.advantage.estimator group_norm"),
        ("rlhfd/explained_variance", {}, "there is no critic with --algo.advantage.estimator group_norm"),
        ("train/vllm_kl", {}, "--algo.advantage.is_correction_level is off"),
        ("rlhfd/mismatch/k3", {}, "--algo.advantage.is_correction_level is off"),
        ("train/vllm_kl", {"algo.advantage.is_correction_level": "token", "actor.policy_loss_type": "gspo"},
         "--actor.policy_loss_type is gspo"),
        ("train/kl", {"algo.kl.init_coef": 0}, "there is no reference model: --algo.kl.init_coef is 0"),
        ("train/group_reward_std", {"rollout.n_samples_per_prompt": 1}, "--rollout.n_samples_per_prompt is 1"),
        ("rlhfd/dynamic_filtering/pass_ratio", {}, "--algo.dynamic_filtering_enable is not set"),
        ("rlhfd/ratio/dual_clipped_ratio", {}, "--actor.dual_clip is unset"),
        ("eval/eval_math_pass1", {}, "--eval.dataset is unset"),
        ("train/gpt_loss", {}, "it belongs to SFT, reward models and DPO, and this is PPO"),
        ("rlhfd/reward_call/count", {"reward.remote_url": None},
         "the reward model is one of the run's own processes"),
        ("rlhfd/ratio/nonfinite_ratio", {}, "it is sent only when there are such values"),
        ("rlhfd/advantage/std", {},
         "rlhfd does not see it: only runs under `rlhfd run` have it, and `rlhfd doctor` says what attaches"),
        ("host/infiniband_ports_active", {}, "the node has no InfiniBand or RoCE"),
    ],
)  # fmt: skip
def test_what_is_absent_has_a_reason(metric: str, args: dict[str, object], reason: str) -> None:
    assert why(metric, told({**GRPO, **args})) == f" because {reason}"


def test_an_old_version_is_a_reason() -> None:
    facts = told({"advantage_estimator": "gae", "init_kl_coef": 0.01}, version="0.9.5")
    assert why("train/actor_grad_norm", facts) == " because OpenRLHF before 0.9.6 does not log it, and this is 0.9.5"
    assert why("train/num_actions", told(GRPO)) == " because OpenRLHF after 0.6.4 does not log it, and this is 0.11.2"


def test_supervised_training_is_a_reason() -> None:
    assert why("train/kl", told({"adam.lr": 1e-5}, "SFTTrainer")) == (
        " because it belongs to PPO, and this is supervised training"
    )


@pytest.mark.parametrize("metric", ["train/reward", "my/metric", "train/entropy_loss", "train/critic_loss"])
def test_what_is_not_known_is_not_claimed(metric: str) -> None:
    assert why(metric, Facts()) == ""
