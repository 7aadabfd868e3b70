"""Which OpenRLHF and vLLM symbols are observed, and how they are bound in a worker process.

Only symbols that Ray pickles by reference can be bound in a worker: base classes, helper classes and module
functions. The actor classes themselves travel by value. Nothing here runs in the driver: an actor base class
patched there would be pickled by value and hide the patch in the worker.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from rlhfd_emitter import actions, import_hook, vllm_wrappers, wrappers
from rlhfd_emitter.hook import attach, unbound
from rlhfd_emitter.process import Process
from rlhfd_emitter.signals import engine, experience, generation, position, progress, rewards, supervised, training
from rlhfd_emitter.symbols import missing_parameters
from rlhfd_emitter.vllm_wrappers import coroutine_phase
from rlhfd_emitter.wrappers import Wrapper, after, before, phase, read_by, together

_TRAINER = "openrlhf.trainer"
_RAY = "openrlhf.trainer.ray"

_LAUNCHER = f"{_RAY}.launcher"
_PPO = f"{_TRAINER}.ppo_trainer.BasePPOTrainer"
_MAKER = f"{_TRAINER}.ppo_utils.experience_maker"
_GENERATOR = f"{_TRAINER}.ppo_utils.samples_generator.SamplesGenerator"

# Places of older versions and the place that has the same today. Of such a pair a version has one; the other is not
# missing. The versions are those of docs/versions.md.
FORMER: dict[str, str] = {
    f"{_LAUNCHER}.DistributedTorchRayActor.__init__": f"{_LAUNCHER}.BaseDistributedActor.__init__",  # to 0.8.2
    f"{_LAUNCHER}.BasePPORole.execute_batch": f"{_LAUNCHER}.BaseModelActor.execute_batch",  # to 0.8.2
    f"{_RAY}.ppo_actor.ActorPPOTrainer._broadcast_to_vllm": f"{_RAY}.ppo_actor.ActorPPOTrainer.broadcast_to_vllm",
    f"{_PPO}._broadcast_to_vllm": f"{_PPO}.broadcast_to_vllm",  # these two to 0.9.0
    f"{_PPO}.evaluate": f"{_GENERATOR}.generate_eval_samples",  # to 0.9.0
    f"{_MAKER}.SamplesGenerator.__init__": f"{_GENERATOR}.__init__",  # these three to 0.9.8
    f"{_MAKER}.SamplesGenerator.generate_samples": f"{_GENERATOR}.generate_samples",
    f"{_MAKER}.SamplesGenerator.generate_eval_samples": f"{_GENERATOR}.generate_eval_samples",
    f"{_MAKER}.RemoteExperienceMaker.make_experience_list": f"{_MAKER}.RemoteExperienceMaker.make_experience_batch",
}

# module -> symbol -> wrapper. A symbol that a version lacks is skipped and reported as missing.
WRAPPERS: dict[str, dict[str, Wrapper]] = {
    f"{_RAY}.launcher": {
        "BaseDistributedActor.__init__": before(wrappers.actor_start),
        "DistributedTorchRayActor.__init__": before(wrappers.actor_start),
        "BaseModelActor.execute_batch": together(before(position.appended), phase()),
        "BasePPORole.execute_batch": together(before(position.appended), phase()),
    },
    f"{_RAY}.ppo_actor": {
        "ActorPPOTrainer.ppo_train": together(training.ppo_train("policy"), phase("ppo_train")),
        "ActorPPOTrainer.broadcast_to_vllm": phase("broadcast"),
        "ActorPPOTrainer._broadcast_to_vllm": phase("broadcast"),
    },
    f"{_RAY}.ppo_critic": {
        "CriticPPOTrainer.ppo_train": together(training.ppo_train("critic"), phase("ppo_train")),
    },
    "openrlhf.models.loss": {
        "PolicyLoss.forward": before(training.policy_loss),
        "ValueLoss.forward": before(training.value_loss),
    },
    "openrlhf.models.actor": {"Actor.forward": before(supervised.forward)},
    f"{_TRAINER}.ppo_utils.replay_buffer": {"NaiveReplayBuffer.collate_fn": after(training.collated)},
    f"{_TRAINER}.ppo_trainer": {
        "BasePPOTrainer.__init__": together(before(wrappers.trainer_start), before(actions.trainer_ready)),
        "BasePPOTrainer.ppo_train": phase("ppo_train"),
        "BasePPOTrainer.init_checkpoint_states": after(progress.resumed),
        "BasePPOTrainer.broadcast_to_vllm": together(progress.broadcast, phase("broadcast")),
        "BasePPOTrainer._broadcast_to_vllm": together(progress.broadcast, phase("broadcast")),
        "BasePPOTrainer.evaluate": phase("eval"),
        "BasePPOTrainer.save_logs_and_checkpoints": together(before(wrappers.step_logs), actions.step_end),
        "compute_eval_metrics": phase("eval_metrics", wrappers.eval_logs),
    },
    f"{_TRAINER}.ppo_utils.samples_generator": {
        "SamplesGenerator.__init__": before(wrappers.generator_start),
        "SamplesGenerator.generate_samples": together(
            actions.generate_samples, generation.generate_samples, phase("generation")
        ),
        "SamplesGenerator.generate_eval_samples": phase("eval_generation"),
    },
    f"{_TRAINER}.ppo_utils.experience_maker": {
        "SamplesGenerator.__init__": before(wrappers.generator_start),
        "SamplesGenerator.generate_samples": together(
            actions.generate_samples, generation.generate_samples, phase("generation")
        ),
        "SamplesGenerator.generate_eval_samples": phase("eval_generation"),
        "RemoteExperienceMaker.make_experience_batch": together(experience.make_experience, phase("make_experience")),
        "RemoteExperienceMaker.make_experience_list": together(experience.make_experience, phase("make_experience")),
        "compute_approx_kl": experience.approx_kl,
    },
    "openrlhf.utils.agent": {
        "SingleTurnAgentExecutor.__init__": rewards.reward_function,
        "SingleTurnAgentExecutor._fetch_rewards_via_http": rewards.remote_model,
        "MultiTurnAgentExecutor.__init__": rewards.environment,
    },
    "openrlhf.utils.deepspeed.deepspeed": {
        "DeepspeedStrategy.optimizer_step": training.optimizer_step,
        "DeepspeedStrategy.load_ckpt": after(position.loaded),
        "DeepspeedStrategy.save_ckpt": phase("checkpoint"),
        "DeepspeedStrategy.save_model": phase("save_model"),
    },
    "vllm.v1.engine.async_llm": {
        "AsyncLLM.__init__": together(before(wrappers.engine_start), after(engine.watch)),
        "AsyncLLM.generate": vllm_wrappers.requests,
        "AsyncLLM.collective_rpc": vllm_wrappers.weight_sync,
        "AsyncLLM.sleep": coroutine_phase("sleep"),
        "AsyncLLM.wake_up": coroutine_phase("wake_up"),
        "AsyncLLM.pause_generation": coroutine_phase("pause_generation"),
        "AsyncLLM.resume_generation": coroutine_phase("resume_generation"),
    },
    "ray.util.queue": {"Queue.get": wrappers.tokens},
    "aiohttp.client": {"ClientSession._request": rewards.attempt},
    **{
        f"{_TRAINER}.{module}": {
            f"{trainer}.__init__": before(wrappers.trainer_start),
            f"{trainer}.save_logs_and_checkpoints": together(before(wrappers.step_logs), before(supervised.step_end)),
            f"{trainer}.evaluate": phase("eval"),
            **(
                {} if trainer == "SFTTrainer" else {f"{trainer}.concatenated_forward": before(supervised.forward_pairs)}
            ),
        }
        for module, trainer in (
            ("sft_trainer", "SFTTrainer"),
            ("rm_trainer", "RewardModelTrainer"),
            ("dpo_trainer", "DPOTrainer"),
        )
    },
}


def symbols() -> dict[str, tuple[str, ...]]:
    """The full name of every symbol of :data:`WRAPPERS`, with the parameters that its wrapper reads."""
    return {
        f"{module}.{symbol}": read_by(wrapper)
        for module, found in WRAPPERS.items()
        for symbol, wrapper in found.items()
    }


def install(process: Process | None = None) -> Process:
    """Bind every symbol of :data:`WRAPPERS` when its module is imported."""
    observed = process or Process()
    import_hook.install({name: lambda module: unbound(bind, observed, module) for name in WRAPPERS})
    return observed


def bind(process: Process, module: ModuleType) -> None:
    """Put the wrappers round the symbols that ``module`` has; each is bound once and alone."""
    absent: list[str] = []
    for symbol, wrapper in WRAPPERS[module.__name__].items():
        name = f"{module.__name__}.{symbol}"
        held = process.hook(name).bind(_bind_one, process, module, symbol, wrapper)
        if name in process.bound or name in process.missing:
            continue  # the module was reloaded: bound again, reported once
        (process.bound if held else absent).append(name)
    settled = {*FORMER, *(FORMER.get(name) for name in process.bound)}
    process.missing += [name for name in absent if name not in settled]
    process.report_hooks()


def _bind_one(process: Process, module: ModuleType, symbol: str, wrapper: Wrapper) -> bool:
    owner_name, _, name = symbol.rpartition(".")
    owner: Any = getattr(module, owner_name, None) if owner_name else module
    # Only what the owner itself defines: an inherited method would be bound twice.
    original = vars(owner).get(name) if owner is not None else None
    if original is None or hasattr(original, "__rlhfd__"):
        return False
    full_name = f"{module.__name__}.{symbol}"
    if lacking := _missing(wrapper, original):
        process.changed[full_name] = lacking
        return False
    replacement = attach(process.hook(full_name), wrapper, process, original)
    if replacement is original:
        return False
    replacement.__rlhfd__ = True  # type: ignore[attr-defined]
    setattr(owner, name, replacement)
    return True


def _missing(wrapper: Wrapper, original: Any) -> str:
    """The parameters that ``wrapper`` reads and ``original`` does not have; looked at only if it reads any."""
    read = read_by(wrapper)
    return ", ".join(missing_parameters(read, list(inspect.signature(original).parameters))) if read else ""
