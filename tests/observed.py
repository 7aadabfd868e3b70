"""A fake OpenRLHF with the class shapes of the real ones, programs that use it under observation, and a receiver."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgpack
import zmq

from rlhfd_daemon.frame import Frame, decode

LAUNCHER = """
import os
class BaseDistributedActor:
    def __init__(self, world_size, rank, master_addr, master_port):
        self._rank = rank
        os.environ["RANK"] = str(rank)
class BaseModelActor(BaseDistributedActor):
    def execute_batch(self, method_name: str, all_data, start_idx, end_idx):
        rows = zip(*(values[start_idx:end_idx] for values in all_data.values()))
        return [getattr(self, method_name)(**dict(zip(all_data, row))) for row in rows]
"""
PPO_ACTOR = """
from openrlhf.trainer.ray.launcher import BaseModelActor
class ActorPPOTrainer:
    def ppo_train(self, kl_ctl: float):
        return {"policy_loss": kl_ctl * 2}
    def broadcast_to_vllm(self):
        raise RuntimeError("NCCL: timed out")
class PolicyModelActor(BaseModelActor):
    def forward(self, sequences):
        return sequences + 1
"""
PPO_TRAINER = """
def compute_eval_metrics(eval_dataloader, samples_list, n_samples_per_prompt):
    return {"eval_math_pass1": sum(samples_list) / len(samples_list), "eval_num_samples": float(len(samples_list))}
class BasePPOTrainer:
    def __init__(self, strategy, actor_model_group, critic_model_group, reward_model_group, reference_model_group,
                 vllm_engines, tokenizer):
        self.strategy, self.args = strategy, strategy.args
    def ppo_train(self, global_steps: int):
        return {"kl": 0.25}
    def init_checkpoint_states(self):
        return {"global_step": 0}
    def broadcast_to_vllm(self):
        pass
    def save_logs_and_checkpoints(self, global_step: int, logs_dict=None, client_states=None):
        logs_dict.pop("generated_samples", None)
        self.saved = (global_step, dict(logs_dict), client_states)
class PPOTrainer(BasePPOTrainer):
    pass
"""
SAMPLES_GENERATOR = """
class SamplesGenerator:
    def __init__(self, strategy, prompts_dataloader, eval_dataloader, tokenizer, vllm_engines):
        self.strategy = strategy
    def generate_samples(self, **generate_kwargs):
        return [1, 2, 3], 50.0, 3, False
    def generate_eval_samples(self, **generate_kwargs):
        return [0.0, 1.0]
"""
EXPERIENCE_MAKER = """
def compute_approx_kl(log_probs, log_probs_base):
    return log_probs - log_probs_base
class RemoteExperienceMaker:
    def make_experience_batch(self, rollout_samples):
        return [sample * 2 for sample in rollout_samples]
"""
DEEPSPEED = """
class DeepspeedStrategy:
    def __init__(self, args, rank=0):
        self.args, self.rank = args, rank
    def is_rank_0(self):
        return self.rank == 0
    def optimizer_step(self, optimizer, model, scheduler, name="model", **kwargs):
        model.step()
    def load_ckpt(self, model, load_dir, tag=None):
        return f"{load_dir}/{tag}", {}
    def save_ckpt(self, model, save_dir, tag=None, max_num=3, max_mem=1000, client_state={}, save_latest=True):
        return f"{save_dir}/{tag}"
    def save_model(self, model, tokenizer, output_dir, **kwargs):
        raise OSError(28, "No space left on device")
"""
SFT_TRAINER = """
class SFTTrainer:
    def __init__(self, model, strategy, optim, train_dataloader, eval_dataloader, scheduler, max_norm: float = 1):
        self.model, self.strategy, self.eval_dataloader = model, strategy, eval_dataloader
    def save_logs_and_checkpoints(self, args, global_step, step_bar, logs_dict=None, client_states=None):
        if global_step % 2 == 0:
            self.evaluate(self.eval_dataloader, global_step)
            self.strategy.save_ckpt(self.model, "ckpt", f"global_step{global_step}")
    def evaluate(self, eval_dataloader, steps=0):
        return {"eval_loss": 1.0}
"""
ASYNC_LLM = """
import asyncio
class AsyncLLM:
    def __init__(self, vllm_config, executor_class=None, log_stats=False):
        self.ended = []
    async def generate(self, prompt, sampling_params, request_id):
        try:
            for index in range(sampling_params):
                await asyncio.sleep(0)
                if prompt == "fail":
                    raise ValueError(request_id)
                yield f"{prompt}{index}"
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        else:
            self.ended.append("done")
    async def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
        await asyncio.sleep(0)
        if method == "fail" or "fail" in args:
            raise ValueError(method)
        return [method, args]
    async def sleep(self, level=1):
        return f"asleep {level}"
    async def wake_up(self, tags=None):
        if tags == ["fail"]:
            raise ValueError("no memory")
        return tags
    async def pause_generation(self, *, mode="abort"):
        return mode
    async def resume_generation(self):
        await asyncio.sleep(0)
"""
QUEUE = """
class Queue:
    def __init__(self, *items):
        self.items = list(items)
    def get(self, block=True, timeout=None):
        return self.items.pop(0)
"""
V0_11 = {
    "openrlhf/trainer/ray/launcher.py": LAUNCHER,
    "openrlhf/trainer/ray/ppo_actor.py": PPO_ACTOR,
    "openrlhf/trainer/ppo_trainer.py": PPO_TRAINER,
    "openrlhf/trainer/sft_trainer.py": SFT_TRAINER,
    "openrlhf/trainer/ppo_utils/samples_generator.py": SAMPLES_GENERATOR,
    "openrlhf/trainer/ppo_utils/experience_maker.py": EXPERIENCE_MAKER,
    "openrlhf/utils/deepspeed/deepspeed.py": DEEPSPEED,
    "vllm/v1/engine/async_llm.py": ASYNC_LLM,
    "ray/util/queue.py": QUEUE,
}
# Up to 0.9.0: flat arguments, `args` and `step_bar` handed through, the generator beside the experience maker.
V0_8 = {
    **V0_11,
    "openrlhf/trainer/ppo_trainer.py": """
class BasePPOTrainer:
    def __init__(self, pretrain, strategy, actor_model_group, critic_model_group=None, **generate_kwargs):
        self.strategy, self.args = strategy, strategy.args
    def ppo_train(self, global_steps):
        return {"kl": 0.5}
    def _broadcast_to_vllm(self):
        pass
    def evaluate(self, eval_dataloader, global_step, temperature=0.6, n_samples_per_prompt=1):
        pass
    def save_logs_and_checkpoints(self, args, global_step, step_bar, logs_dict={}, client_states={}):
        self.saved = (global_step, logs_dict.pop("generated_samples"), dict(logs_dict))
class PPOTrainer(BasePPOTrainer):
    pass
""",
    "openrlhf/trainer/ppo_utils/experience_maker.py": """
class SamplesGenerator:
    def __init__(self, vllm_engines, strategy, tokenizer, prompt_max_len):
        self.strategy = strategy
    def generate_samples(self, all_prompts, all_labels, **generate_kwargs):
        return all_prompts + all_labels
"""
    + EXPERIENCE_MAKER,
}
del V0_8["openrlhf/trainer/ppo_utils/samples_generator.py"]

# Beginnings of programs.
TRAINER = """
from openrlhf.trainer.ppo_trainer import PPOTrainer, compute_eval_metrics
from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy
args = N(logger=N(wandb=N(key="SECRET-1", project="math"), logging_steps=1), data=N(input_key="prompt"),
         reward=N(remote_url=["http://me:SECRET-2@rm:5000/get?token=SECRET-3"]), hf_token="SECRET-4")
strategy = DeepspeedStrategy(args)
trainer = PPOTrainer(strategy, None, None, None, None, [], None)
"""
ACTOR = """
from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer, PolicyModelActor
actor = PolicyModelActor(8, 3, "10.0.0.1", 29500)
"""
PRELUDE = "import sys\nfrom types import SimpleNamespace as N\nprocess = None\n"
# At its end a process waits no longer than it has to, but on a busy machine longer than the 2 s of a real one.
HOOKS = (
    "from rlhfd_emitter import hooks, sender\nsender.FLUSH_SECONDS = sender.ABSENT_FLUSH_SECONDS = 30\n"
    "process = hooks.install()\n"
)


class Receiver:
    """A ROUTER that takes and acknowledges every frame, in a thread of its own."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._frames: dict[tuple[str, int], Frame] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._receive)

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self._port}"

    def frames(self, run: str) -> list[Frame]:
        """The frames of ``run``, stream by stream, each in order."""
        return [frame for frame in list(self._frames.values()) if frame.run == run]

    def _receive(self) -> None:
        while not self._ended.is_set():
            if not self._socket.poll(20):
                continue
            identity, *_, payload = self._socket.recv_multipart()
            frame = decode(payload)
            if frame.kind != "ping":
                self._frames.setdefault((frame.stream, frame.seq), frame)
            self._socket.send_multipart([identity, msgpack.packb({"v": 1, "ack": frame.seq, "mute": False})])

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close(0)
        self._context.term()


class Observed:
    """Runs programs against the fake OpenRLHF in ``directory``; ``run`` is the name of the run they report to."""

    def __init__(self, directory: Path, receiver: Receiver) -> None:
        self.directory = directory
        self.run = directory.name
        self.receiver = receiver
        self.stderr = ""

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def output(self, program: str, *, hooks: bool = True, files: Mapping[str, str] = V0_11) -> str:
        """What ``program`` prints; under observation unless ``hooks`` is false."""
        self.write(files)
        environ = {**os.environ, "PYTHONPATH": str(self.directory)}
        if hooks:
            environ.update(RLHFD_RUN=self.run, RLHFD_BOOT="b", RLHFD_ENDPOINT=self.receiver.endpoint)
        code = PRELUDE + (HOOKS if hooks else "") + program
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environ)
        self.stderr = result.stderr
        assert result.returncode == 0, result.stderr
        return result.stdout

    def frames(self, program: str, *, files: Mapping[str, str] = V0_11) -> list[Frame]:
        """What ``program`` reports, without anything on its standard error."""
        self.output(program, files=files)
        assert self.stderr == ""
        return self.receiver.frames(self.run)


def events(frames: list[Frame], *kinds: str) -> list[dict[str, Any]]:
    """The fields of the events of ``kinds``, in order."""
    return [frame.fields for frame in frames if frame.event in kinds]


def phases(frames: list[Frame]) -> list[str]:
    """``+name`` for each phase that began and ``-name`` for each that ended, in order."""
    marks = {"phase_begin": "+", "phase_end": "-"}
    return [marks[frame.event] + frame.fields["phase"] for frame in frames if frame.event in marks]
