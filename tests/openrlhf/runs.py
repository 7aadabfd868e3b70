"""Starts OpenRLHF's trainers on the lab's tiny model: unmodified command-line programs, a few seconds a run."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openrlhf.lab import HERE, SHIM, Lab, LabError, Process, free_ports, start
from openrlhf.reward import FAULTS

__all__ = ["VARIANTS", "rows", "start_dpo", "start_ppo", "start_rank", "start_rm", "start_sft", "under_rlhfd"]

ROLLOUT_BATCH = 16
SAMPLES_PER_PROMPT = 4
TRAIN_BATCH = 32
MAX_PPO_STEPS = 1000  # the data sets have no more samples
MAX_RANK_STEPS = {"train_sft": 250, "train_rm": 125, "train_dpo": 125}
# build_env.sh does not look at these two when it decides whether to train the model anew.
SFT_STEPS, SFT_SECONDS = 250, 900.0

NODE_OPTIONS = ("num_nodes", "num_gpus_per_node")
COMMON = (
    *("--ds.zero_stage", "2", "--ds.attn_implementation", "sdpa", "--ds.param_dtype", "bf16"),
    *("--data.input_template", "{} ", "--data.max_len", "64", "--logger.logging_steps", "1"),
)
PREFERENCES = (
    *("--model.model_name_or_path", "{assets}/sft", "--data.dataset", "{assets}/preferences.jsonl"),
    *("--data.prompt_key", "prompt", "--data.chosen_key", "chosen", "--data.rejected_key", "rejected"),
)
RANK_ARGUMENTS = {
    "train_sft": (
        *("--model.model_name_or_path", "{assets}/tiny", "--data.dataset", "{assets}/sft.jsonl"),
        *("--data.input_key", "input", "--data.output_key", "output", "--adam.lr", "3e-3"),
    ),
    # train_rm takes 1 % of its data for evaluation if it is given none: nothing at all of a short run's.
    "train_rm": (*PREFERENCES, "--eval.dataset", "{assets}/eval_preferences.jsonl", "--adam.lr", "1e-3"),
    "train_dpo": (*PREFERENCES, "--ref.model_name_or_path", "{assets}/sft", "--adam.lr", "5e-4"),
}

PACKED = ("--ds.packing_samples", "--ds.attn_implementation", "flash_attention_cpu")  # see shim/sitecustomize.py

# What makes another algorithm or topology of the PPO command: put behind its arguments, so that it wins.
# ``{assets}`` and ``{shim}`` at the beginning of a part stand for folders.
_ESTIMATOR, _REWARD_MODEL = "--algo.advantage.estimator", "--reward.model_name_or_path"
_EVALUATED = ("--eval.dataset", "{assets}/eval_prompts.jsonl", "--eval.steps", "2", "--eval.n_samples_per_prompt", "2")
_TWO_RANKS = ("--actor.num_gpus_per_node", "2", "--ref.num_gpus_per_node", "2", "--ds.zero_stage", "3")
VARIANTS: dict[str, tuple[str, ...]] = {
    "async": ("--train.async_enable", *_EVALUATED),
    "grpo": (_ESTIMATOR, "group_norm", "--algo.kl.use_loss", "--algo.kl.estimator", "k3"),
    "reinforce": (_ESTIMATOR, "reinforce", *_TWO_RANKS),
    "packed": (
        *(_ESTIMATOR, "group_norm", *PACKED, "--train.dynamic_batch_enable", *_TWO_RANKS),
        *("--train.max_tokens_per_gpu", "128", "--rollout.max_tokens_per_gpu", "256"),
    ),
    "rloo": (_ESTIMATOR, "rloo", _REWARD_MODEL, "{assets}/sft"),
    "agent": (
        *(_ESTIMATOR, "reinforce_baseline", "--train.agent_func_path", "{shim}/lab_agent.py"),
        *("--train.async_enable", "--train.partial_rollout_enable", "--train.async_queue_size", "2"),
    ),
}


def under_rlhfd(lab: Lab, run: str, endpoint: str, *options: str) -> tuple[str, ...]:
    """What a user writes before the training command."""
    return (str(lab.venv / "bin" / "rlhfd"), "run", "--run", run, "--endpoint", endpoint, *options, "--")


def rows(trace: Path) -> list[dict[str, Any]]:
    """What OpenRLHF logged, as recorded beside it with all digits."""
    return [json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else []


def start_ppo(
    lab: Lab,
    ray: str,
    name: str,
    *,
    steps: int,
    log: Path,
    prefix: Sequence[str | Path] = (),
    env: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
    reward: str = "healthy",
    fault_step: int = 0,
    trace: Path | None = None,
) -> Process:
    """Start PPO with GAE on the Ray head ``ray``; several may run on one head.

    ``prefix`` goes before ``python -m openrlhf.cli...``, ``extra`` (see ``VARIANTS``) behind its arguments, ``env``
    over the driver's environment. From step ``fault_step`` on (0: never) the reward is ``reward``, see ``reward.py``.
    ``trace`` gets every row that OpenRLHF logs, with all digits. Checkpoints and the like go beside ``log``, into the
    folder ``name``.
    """
    _check_steps(steps, MAX_PPO_STEPS)
    if reward not in FAULTS:
        raise LabError(f"reward must be one of {', '.join(FAULTS)}, not {reward!r}")
    variables = {
        "RAY_ADDRESS": ray,
        "LAB_REWARD": reward,
        "LAB_FAULT_STEP": str(fault_step),
        "LAB_CALLS_PER_STEP": str(ROLLOUT_BATCH * SAMPLES_PER_PROMPT),
    }
    models = [f"--{role}.{key}" for role in ("ref", "actor", "critic", "reward") for key in NODE_OPTIONS]
    arguments = [
        *(part for option in models for part in (option, "1")),
        *("--vllm.num_engines", "1", "--vllm.tensor_parallel_size", "1", "--vllm.enforce_eager"),
        *("--vllm.gpu_memory_utilization", "0.05"),
        *("--actor.model_name_or_path", str(lab.assets / "sft")),
        # An empty URL is a reward service to OpenRLHF, which then tries it five times for each sample.
        *(() if _REWARD_MODEL in extra else ("--reward.remote_url", str(HERE / "reward.py"))),
        *("--data.prompt_dataset", str(lab.assets / "prompts.jsonl")),
        *("--data.input_key", "input", "--data.label_key", "label"),
        *("--data.max_samples", str(ROLLOUT_BATCH * steps), "--train.num_episodes", "1", "--train.max_epochs", "1"),
        *("--rollout.batch_size", str(ROLLOUT_BATCH), "--rollout.n_samples_per_prompt", str(SAMPLES_PER_PROMPT)),
        *("--rollout.micro_batch_size", "32", "--rollout.max_new_tokens", "24"),
        *("--train.batch_size", str(TRAIN_BATCH), "--train.micro_batch_size", "16"),
        *("--actor.lr_scheduler", "constant_with_warmup", "--critic.lr_scheduler", "constant_with_warmup"),
        *("--actor.adam.lr", "3e-4", "--critic.adam.lr", "1e-3", "--actor.entropy_coef", "0"),
        *("--algo.advantage.estimator", "gae", "--algo.advantage.is_correction_level", "token"),
        *("--algo.kl.init_coef", "0.01"),
    ]
    return _start(
        lab, ("openrlhf.cli.train_ppo_ray",), name, arguments, log, prefix, {**variables, **(env or {})}, extra, trace
    )


def start_rank(
    trainer: str,
    lab: Lab,
    name: str,
    *,
    steps: int,
    log: Path,
    prefix: Sequence[str | Path] = (),
    env: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
    trace: Path | None = None,
    ranks: int = 1,
) -> Process:
    """Start ``train_sft``, ``train_rm`` or ``train_dpo``: one rank without a launcher, more of them under ``torchrun``.
    Other arguments as for PPO."""
    _check_steps(steps, MAX_RANK_STEPS[trainer])
    arguments = [
        *RANK_ARGUMENTS[trainer],
        *("--train.batch_size", str(TRAIN_BATCH), "--train.micro_batch_size", str(TRAIN_BATCH // ranks)),
        *("--train.max_epochs", "1", "--data.max_samples", str(TRAIN_BATCH * steps)),
    ]
    located = [argument.format(assets=lab.assets) if "{assets}" in argument else argument for argument in arguments]
    port, module = str(free_ports(1)[0]), [f"openrlhf.cli.{trainer}"]
    variables = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": port}
    if ranks > 1:
        torchrun = ["torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}", "-m"]
        variables, module = {}, [*torchrun, *module]
    return _start(lab, module, name, located, log, prefix, {**variables, **(env or {})}, extra, trace)


start_sft = functools.partial(start_rank, "train_sft")
start_rm = functools.partial(start_rank, "train_rm")
start_dpo = functools.partial(start_rank, "train_dpo")


def _check_steps(steps: int, most: int) -> None:
    if not 1 <= steps <= most:
        raise LabError(f"steps must be 1 to {most}, not {steps}: the data set has no more samples")


def _start(
    lab: Lab,
    module: Sequence[str],
    name: str,
    arguments: Sequence[str],
    log: Path,
    prefix: Sequence[str | Path],
    env: Mapping[str, str],
    extra: Sequence[str],
    trace: Path | None,
) -> Process:
    folder = log.resolve().parent / name
    environment = {**lab.environment(), **env}
    if trace is not None:
        trace.parent.mkdir(parents=True, exist_ok=True)
        environment["LAB_TRACE"] = str(trace.resolve())
    outputs = {
        "--ckpt.output_dir": folder / "model",
        "--ckpt.path": folder / "checkpoints",
        "--logger.tensorboard_dir": folder / "tensorboard",
        "--logger.wandb.run_name": name,
    }
    program = [*_broken_path(environment), str(lab.python), "-m", *module]
    placed = [str(part) for pair in outputs.items() for part in pair]
    given = [part.format(assets=lab.assets, shim=SHIM) if part.startswith("{") else part for part in extra]
    command: list[str | Path] = [*prefix, *program, *COMMON, *arguments, *placed, *given]
    return start(command, environment, log, folder)


def _broken_path(environment: Mapping[str, str]) -> list[str]:
    """What hides rlhfd's package from the trainer, but not from the ``rlhfd`` command in the prefix."""
    if environment.get("LAB_BREAK_RLHFD") != "unimportable":
        return []
    return ["env", f"PYTHONPATH={SHIM / 'unimportable'}{os.pathsep}{environment['PYTHONPATH']}"]


def make_sft_model(lab: Lab) -> None:
    """Train the model that PPO, RM and DPO start from; DeepSpeed compiles its extensions on the way."""
    log = lab.root / "sft" / "sft.log"
    with start_sft(lab, "model", steps=SFT_STEPS, log=log) as run:
        status = run.wait(SFT_SECONDS)
    if status != 0:
        raise LabError(f"SFT of the tiny model ended with {status}\n{run.tail()}")
    shutil.move(log.parent / "model" / "model", lab.assets / "sft")
    shutil.rmtree(log.parent)


if __name__ == "__main__":
    make_sft_model(Lab(Path(sys.argv[1])))
