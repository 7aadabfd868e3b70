"""A training that can be asked to save and to stop: a fake OpenRLHF whose loop is that of 0.11.2, and its program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from observed import V0_11

__all__ = ["FILES", "Training", "program"]

PPO_TRAINER = """
import os
def compute_eval_metrics(eval_dataloader, samples_list, n_samples_per_prompt):
    return {}
class BasePPOTrainer:
    def __init__(self, strategy, actor_model_group, critic_model_group, reward_model_group, reference_model_group,
                 vllm_engines, tokenizer):
        self.strategy, self.args = strategy, strategy.args
        if self.args.ckpt.save_steps == -1:
            self.args.ckpt.save_steps = float("inf")
    def ppo_train(self, global_steps: int):
        return {}
    def init_checkpoint_states(self):
        return {"global_step": 0}
    def broadcast_to_vllm(self):
        pass
    def save_logs_and_checkpoints(self, global_step: int, logs_dict=None, client_states=None):
        if global_step % self.args.ckpt.save_steps == 0:
            os.makedirs(os.path.join(self.args.ckpt.path, "_actor", f"global_step{global_step}"))
class PPOTrainer(BasePPOTrainer):
    def fit(self, generator, step):
        done = 0
        for episode in range(self.args.train.num_episodes):
            while True:
                samples, _, consumed, is_exhausted = generator.generate_samples()
                if not samples:
                    if is_exhausted:
                        break
                    continue
                done += 1
                self.save_logs_and_checkpoints(done, step(done), {})
                if is_exhausted:
                    break
        return done
"""
SAMPLES_GENERATOR = """
class SamplesGenerator:
    def __init__(self, strategy, prompts_dataloader, eval_dataloader, tokenizer, vllm_engines):
        self.left = self.prompts = prompts_dataloader
    def generate_samples(self, **generate_kwargs):
        self.left = (self.left or self.prompts) - 1
        return [1], None, 1, self.left == 0
    def generate_eval_samples(self, **generate_kwargs):
        return []
"""
FILES = {
    **V0_11,
    "openrlhf/trainer/ppo_trainer.py": PPO_TRAINER,
    "openrlhf/trainer/ppo_utils/samples_generator.py": SAMPLES_GENERATOR,
}
SET_UP = """
import sys, time
from types import SimpleNamespace as N
from rlhfd_emitter import hooks
process = hooks.install()
from openrlhf.trainer.ppo_trainer import PPOTrainer
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
args = N(ckpt=N(path=sys.argv[1], save_steps=-1, disable_ds=False, save_hf=False), train=N(num_episodes=2))
trainer = PPOTrainer(N(args=args, is_rank_0=lambda: True), None, None, None, None, [], None)
"""
LOOP = """
def step(done):
    time.sleep({seconds})
    return {{"kl": float("nan") if done >= {bad} else 0.1}}
done = trainer.fit(SamplesGenerator(None, {steps}, [], None, []), step)
print(done, args.ckpt.save_steps, flush=True)
"""


def program(steps: int, bad: int, seconds: float = 0.1) -> str:
    """Twice ``steps`` steps of ``seconds`` with NaN from step ``bad`` on; prints the last step, and ``save_steps``."""
    return SET_UP + LOOP.format(steps=steps, bad=bad, seconds=seconds)


class Training:
    """A process that trains like that and reports to ``endpoint``."""

    def __init__(self, directory: Path, endpoint: str, code: str, allow: str = "", run: str = "ppo") -> None:
        self.checkpoints = directory / "checkpoints"
        for name, text in FILES.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        variables = {"RLHFD_RUN": run, "RLHFD_BOOT": "boot-1", "RLHFD_ENDPOINT": endpoint, "RLHFD_ALLOW": allow}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(self.checkpoints)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(directory), **variables},
        )

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def wait(self) -> tuple[int, str]:
        """The last step and ``save_steps`` after it, once it has ended well."""
        out, err = self.process.communicate(timeout=60)
        assert (self.process.returncode, err) == (0, ""), err
        last, save_steps = out.split()
        return int(last), save_steps

    def saved(self) -> list[str]:
        """The checkpoints that there are."""
        folder = self.checkpoints / "_actor"
        return sorted(one.name for one in folder.iterdir()) if folder.exists() else []
