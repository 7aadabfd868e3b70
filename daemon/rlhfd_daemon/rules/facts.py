"""What is known about a run: from its arguments where it told them, else from the metrics that it sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

from rlhfd_daemon.interpret import context_of
from rlhfd_daemon.metrics.metric import release
from rlhfd_daemon.metrics.normalise import NO_REFERENCE_MODEL_SINCE, RunContext
from rlhfd_daemon.rules.rule import Fact
from rlhfd_daemon.runs import DAEMON_ROLE
from rlhfd_daemon.sample import Happening, Sample

__all__ = ["FACTS", "Facts"]

FACTS: tuple[Fact, ...] = get_args(Fact)

# What follows from a metric's being there at all. OpenRLHF logs none of these where the fact does not hold.
_SHOWN_BY: Mapping[str, tuple[tuple[Fact, bool], ...]] = {
    "train/policy_loss": (("supervised", False),),
    "train/rollout/reward_mean": (("supervised", False),),
    "train/critic_loss": (("critic", True), ("supervised", False)),
    "rlhfd/explained_variance": (("critic", True),),
    "train/group_reward_std": (("groups", True),),
    "rlhfd/group/zero_std_ratio": (("groups", True),),
    "rlhfd/kl/k1": (("reference_model", True),),
    "rlhfd/reward_call/count": (("supervised", False),),
    "train/gpt_loss": (("supervised", True), ("critic", False), ("groups", False)),
    "train/acc": (("supervised", True), ("critic", False), ("groups", False)),
    "train/chosen_reward": (("supervised", True), ("critic", False), ("groups", False)),
}


class Facts:
    """One launch of a run. ``None`` is unknown."""

    __slots__ = ("_context", "_seen", "_told")

    def __init__(self) -> None:
        self._context = RunContext()
        self._told: dict[Fact, bool | None] = {}
        self._seen: dict[Fact, bool] = {}

    @property
    def context(self) -> RunContext:
        """The run's arguments and versions, empty if it has not told them."""
        return self._context

    def take(self, event: Happening) -> bool:
        """Learn from ``run_start``, or from ``run_context`` after a restart of the daemon; whether there was
        anything to learn."""
        fields: object = event.fields
        if event.name == "run_context" and event.role == DAEMON_ROLE:
            fields = event.fields.get("context")
        elif event.name != "run_start":
            return False
        if not isinstance(fields, Mapping) or not fields:
            return False
        self._context = context_of(fields)
        self._told = _told_by(self._context)
        return True

    def see(self, sample: Sample) -> None:
        """Learn from a metric's first sample."""
        for fact, holds in _SHOWN_BY.get(sample.name, ()):
            self._seen.setdefault(fact, holds)

    def get(self, fact: Fact) -> bool | None:
        """Whether it holds: what the arguments say counts more than what the metrics show."""
        told = self._told.get(fact)
        return self._seen.get(fact) if told is None else told

    def argument(self, names: tuple[str, ...]) -> float | None:
        """The first of these arguments that is set and a number."""
        return self._context.number(*names)


def _told_by(context: RunContext) -> dict[Fact, bool | None]:
    if not context.args:
        return {}
    if _is_supervised(context):
        is_dpo = context.trainer == "DPOTrainer"
        return {**dict.fromkeys(FACTS, False), "supervised": True, "reference_model": is_dpo}
    return {fact: told(context) for fact, told in _TOLD.items()}


def _is_supervised(context: RunContext) -> bool | None:
    """PPO has an advantage estimator; SFT, reward models and DPO have none."""
    estimator = context.argument("algo.advantage.estimator", "advantage_estimator")
    return None if context.trainer is None and estimator is None else estimator is None


def _has_critic(context: RunContext) -> bool | None:
    estimator = context.argument("algo.advantage.estimator", "advantage_estimator")
    return None if estimator is None else estimator == "gae"


def _has_reference_model(context: RunContext) -> bool | None:
    coefficient, version = context.number("algo.kl.init_coef", "init_kl_coef"), release(context.version)
    if coefficient is None:
        return None
    return coefficient > 0 or (version is not None and version < NO_REFERENCE_MODEL_SINCE)


def _has_reward_model(context: RunContext) -> bool | None:
    """A learned one. What answers at an address may be one or not."""
    if context.argument("train.agent_func_path", "agent_func_path"):
        return False
    remote = context.argument("reward.remote_url", "remote_rm_url")
    if not remote:
        return context.argument("reward.model_name_or_path", "reward_pretrain") is not None or None
    addresses = remote if isinstance(remote, (list, tuple)) else [remote]
    return False if all(str(one).endswith(".py") or one == "agent" for one in addresses) else None


def _has_inner_epochs(context: RunContext) -> bool | None:
    """More than one optimizer step for each rollout."""
    epochs = context.number("train.max_epochs", "max_epochs")
    prompts = context.number("rollout.batch_size", "rollout_batch_size")
    samples = context.number("rollout.n_samples_per_prompt", "n_samples_per_prompt")
    batch = context.number("train.batch_size", "train_batch_size")
    if epochs is not None and epochs > 1:
        return True
    if epochs is None or prompts is None or samples is None or not batch:
        return None
    return prompts * samples > batch


def _has_groups(context: RunContext) -> bool | None:
    samples = context.number("rollout.n_samples_per_prompt", "n_samples_per_prompt")
    return None if samples is None else samples > 1


def _has_length_cap(context: RunContext) -> bool:
    return context.number("rollout.max_new_tokens", "generate_max_len") is not None


def _flag(*names: str) -> Callable[[RunContext], bool | None]:
    def told(context: RunContext) -> bool | None:
        found = context.argument(*names)
        return found if isinstance(found, bool) else None

    return told


_TOLD: Mapping[Fact, Callable[[RunContext], bool | None]] = {
    "critic": _has_critic,
    "reference_model": _has_reference_model,
    "reward_model": _has_reward_model,
    "inner_epochs": _has_inner_epochs,
    "groups": _has_groups,
    "length_cap": _has_length_cap,
    "async": _flag("train.async_enable", "async_train"),
    "kl_in_loss": _flag("algo.kl.use_loss", "use_kl_loss"),
    "supervised": _is_supervised,
}
