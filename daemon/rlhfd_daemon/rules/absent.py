"""Why a run does not send a metric that a rule needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from rlhfd_daemon.metrics.metric import Metric
from rlhfd_daemon.metrics.table import lookup
from rlhfd_daemon.rules.facts import Facts

if TYPE_CHECKING:
    from rlhfd_daemon.rules.watching import Context

__all__ = ["why"]

Reason = Callable[[Facts], str]
EXTRA = "rlhfd does not see it: only runs under `rlhfd run` have it, and `rlhfd doctor` says what attaches"


class _Cause(NamedTuple):
    """A reason that holds for metrics whose name ``pattern`` matches; an empty answer: not the reason."""

    pattern: re.Pattern[str]
    reason: Reason


def why(metric: str, context: Context) -> str:
    """`` because ...``, ready to follow what is absent; empty if nothing is known."""
    facts = context if isinstance(context, Facts) else Facts()
    found = next(
        (text for cause in _CAUSES if cause.pattern.match(metric) and (text := cause.reason(facts))),
        _by_table(lookup(metric), facts),
    )
    return f" because {found}" if found else ""


def _by_table(row: Metric | None, facts: Facts) -> str:
    if row is None:
        return ""
    version = facts.context.version
    if version is not None and not any(key.covers(version) for key in row.keys):
        return _by_version(row, version)
    if row.origin == "openrlhf":
        return ""
    return EXTRA if row.name.startswith("rlhfd/") else ""


def _by_version(row: Metric, version: str) -> str:
    since, last = row.keys[0].first, row.keys[-1].last
    when = f"after {last}" if last is not None else f"before {since}"
    return f"OpenRLHF {when} does not log it, and this is {version}"


def _critic(facts: Facts) -> str:
    estimator = facts.context.argument("algo.advantage.estimator", "advantage_estimator")
    if estimator is not None and estimator != "gae":
        return f"there is no critic with --algo.advantage.estimator {estimator}"
    return "the run has no critic" if facts.get("critic") is False else ""


def _supervised(facts: Facts) -> str:
    return "it belongs to PPO, and this is supervised training" if facts.get("supervised") else ""


def _ppo(facts: Facts) -> str:
    return "it belongs to SFT, reward models and DPO, and this is PPO" if facts.get("supervised") is False else ""


def _reference(facts: Facts) -> str:
    none = facts.get("reference_model") is False
    return "there is no reference model: --algo.kl.init_coef is 0" if none else ""


def _groups(facts: Facts) -> str:
    return "--rollout.n_samples_per_prompt is 1" if facts.get("groups") is False else ""


def _entropy(facts: Facts) -> str:
    known = facts.context.args
    unset = facts.context.argument("actor.entropy_coef", "entropy_loss_coef") is None
    return "--actor.entropy_coef is unset; 0 logs it without changing the loss" if known and unset else ""


def _correction(facts: Facts) -> str:
    level = facts.context.argument("algo.advantage.is_correction_level")
    enabled = facts.context.argument("algo.advantage.is_correction_enable", "enable_vllm_is_correction")
    if level == "off" or (level is None and enabled is False):
        return "--algo.advantage.is_correction_level is off" if level else "importance-sampling correction is off"
    loss = facts.context.argument("actor.policy_loss_type", "policy_loss_type")
    return f"--actor.policy_loss_type is {loss}" if loss not in (None, "ppo") else ""


def _filtering(facts: Facts) -> str:
    enabled = facts.context.argument("algo.dynamic_filtering_enable", "dynamic_filtering")
    return "--algo.dynamic_filtering_enable is not set" if enabled is False else ""


def _dual_clip(facts: Facts) -> str:
    unset = facts.context.argument("actor.dual_clip", "dual_clip") is None
    return "--actor.dual_clip is unset" if facts.context.args and unset else ""


def _evaluation(facts: Facts) -> str:
    unset = not facts.context.argument("eval.dataset", "eval_dataset")
    return "--eval.dataset is unset" if facts.context.args and unset else ""


def _remote(facts: Facts) -> str:
    is_remote = facts.context.argument("reward.remote_url", "remote_rm_url", "train.agent_func_path", "agent_func_path")
    return "the reward model is one of the run's own processes" if facts.context.args and not is_remote else ""


def _same(text: str) -> Reason:
    return lambda _facts: text


# The first that matches and has an answer counts.
_CAUSES: tuple[_Cause, ...] = tuple(
    _Cause(re.compile(pattern), reason)
    for pattern, reason in (
        (r"train/(loss|acc|chosen|reject|nll|gpt_loss|lr$|grad_norm$)|eval/(acc|eval gpt|eval_loss)", _ppo),
        (
            r"train/(actor|critic|policy|ppo|kl$|entropy|rollout|group|response|values|vllm|is_filter|timing)",
            _supervised,
        ),
        (
            r"rlhfd/(advantage|kl|mismatch|reward|group|policy|critic|ratio|correlation|response|repetition)",
            _supervised,
        ),
        (r"train/(critic_|values)|rlhfd/(critic/|value/|explained_variance)", _critic),
        (r"train/(kl|logprobs_diff)$|rlhfd/(kl/|correlation/kl_reward)", _reference),
        (r"train/group_reward_std$|rlhfd/group/", _groups),
        (r"train/entropy_loss$", _entropy),
        (r"train/(vllm_kl|is_filter_ratio)$|rlhfd/mismatch/", _correction),
        (r"train/dynamic_filtering|rlhfd/dynamic_filtering", _filtering),
        (r"rlhfd/ratio/dual_clipped", _dual_clip),
        (r"eval/", _evaluation),
        (r"rlhfd/reward_call/", _remote),
        (r"rlhfd/(ratio/nonfinite|reward/missing)", _same("it is sent only when there are such values")),
        (r"gpu/", _same("NVML shows no such GPU to the daemon")),
        (r"host/infiniband", _same("the node has no InfiniBand or RoCE")),
        (r"(host|disk|process|cgroup)/", _same("the daemon does not see it on this node")),
        (r"ray/", _same("the daemon sees no Ray session on this node")),
        (r"rlhfd/ratio_of/", _same("the phases' times are not all logged")),
    )
)
