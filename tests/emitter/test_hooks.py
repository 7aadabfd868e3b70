"""What the hooks report from a run of OpenRLHF."""

from __future__ import annotations

import math

import pytest

from observed import ACTOR, LAUNCHER, PPO_ACTOR, PPO_TRAINER, TRAINER, V0_8, V0_11, Observed, events, phases
from rlhfd_emitter.hooks import FORMER, WRAPPERS


def test_a_trainer_says_who_it_is_what_is_attached_and_what_it_runs(observed: Observed) -> None:
    frames = observed.frames(TRAINER)
    assert [frame.event for frame in frames] == ["process_start", "attached", "run_start", "process_stop"]
    assert {(frame.run, frame.boot, frame.role, frame.rank) for frame in frames} == {
        (observed.run, "b", "PPOTrainer", None)
    }
    start, attached, run = (frame.fields for frame in frames[:3])
    assert {"hostname", "ppid", "python", "cuda_visible_devices"} <= set(start)
    assert "openrlhf.trainer.ppo_trainer.BasePPOTrainer.save_logs_and_checkpoints" in attached["bound"]
    assert "openrlhf.utils.deepspeed.deepspeed.DeepspeedStrategy.save_ckpt" in attached["bound"]
    assert attached["missing"] == []
    assert run["trainer"] == "PPOTrainer"
    assert "rlhfd" in run["versions"]


def test_the_run_s_arguments_are_reported_without_its_secrets(observed: Observed) -> None:
    frames = observed.frames(TRAINER)
    (run,) = events(frames, "run_start")
    assert run["args"] == {
        "logger.wandb.key": "[redacted]",
        "logger.wandb.project": "math",
        "logger.logging_steps": 1,
        "data.input_key": "prompt",
        "reward.remote_url": ["http://rm:5000/get?[redacted]"],
        "hf_token": "[redacted]",
    }
    assert "SECRET" not in repr(frames)


def test_a_second_trainer_in_the_process_is_still_the_same_run(observed: Observed) -> None:
    frames = observed.frames(TRAINER + "PPOTrainer(strategy, None, None, None, None, [], None)\n")
    assert len(events(frames, "run_start")) == len(events(frames, "process_start")) == 1


def test_the_step_s_metrics_arrive_with_their_exact_values_before_the_trainer_may_change_them(
    observed: Observed,
) -> None:
    frames = observed.frames(
        TRAINER
        + """
logs = {"kl": 0.1, "return": -3, "actor_lr": 5e-7, "loss": float("nan"), "generated_samples": [["a text", 1.0]],
        "note": "text", "none": None}
trainer.save_logs_and_checkpoints(7, logs, {"consumed": 3})
assert "generated_samples" not in logs and trainer.saved[2] == {"consumed": 3}
trainer.save_logs_and_checkpoints(global_step=8, logs_dict={"kl": 0.2})
trainer.save_logs_and_checkpoints(9, {})
compute_eval_metrics([], [0.0, 1.0], 1)
"""
    )
    metrics = [(frame.step, frame.metrics) for frame in frames if frame.kind == "metrics"]
    assert math.isnan(metrics[0][1].pop("train/loss"))
    assert metrics == [
        (7, {"train/kl": 0.1, "train/return": -3.0, "train/actor_lr": 5e-7}),
        (8, {"train/kl": 0.2}),
        (9, {"eval/eval_math_pass1": 0.5, "eval/eval_num_samples": 2.0}),
    ]
    assert not any(frame.drops for frame in frames)


ASYNC_ROLES = [("GenerateSamplesActor", [None, 2, 2, 2]), ("TrainingActor", [None] * 4)]


@pytest.mark.parametrize(("role", "steps"), ASYNC_ROLES)
def test_the_generator_of_asynchronous_training_takes_its_step_from_the_trainer_s_tokens(
    role: str, steps: list[int | None], observed: Observed
) -> None:
    frames = observed.frames(
        f"""
from openrlhf.trainer.ppo_trainer import compute_eval_metrics
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from ray.util.queue import Queue
process.open({role!r})
generator = SamplesGenerator(None, [], [], None, [])
slots, others = Queue(0, 2), Queue("done", ("eval", 9, {{}}), True)
assert slots.get() == 0
generator.generate_samples()
assert [slots.get(block=True), *(others.get() for _ in range(3))] == [2, "done", ("eval", 9, {{}}), True]
generator.generate_samples()
generator.generate_eval_samples()
compute_eval_metrics([], [1.0], 1)
"""
    )
    begun = [frame for frame in frames if frame.event == "phase_begin"]
    assert [frame.step for frame in begun] == steps
    assert [frame.fields["phase"] for frame in begun] == ["generation"] * 2 + ["eval_generation", "eval_metrics"]
    (metrics,) = [frame for frame in frames if frame.kind == "metrics"]
    assert (metrics.step, metrics.role) == (steps[-1], role)


def test_phases_carry_their_step_their_length_and_what_ended_them(observed: Observed) -> None:
    frames = observed.frames(
        TRAINER
        + """
from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
generator = SamplesGenerator(strategy, [], [], None, [])
trainer.save_logs_and_checkpoints(4, {"kl": 0.1})
rollouts, *_ = generator.generate_samples()
RemoteExperienceMaker().make_experience_batch(rollouts)
trainer.ppo_train(5)
for failing in (ActorPPOTrainer().broadcast_to_vllm, lambda: strategy.save_model(None, None, "out")):
    try:
        failing()
    except Exception:
        pass
strategy.save_ckpt(None, "out")
generator.generate_eval_samples()
"""
    )
    names = [
        "generation", "make_experience", "ppo_train", "broadcast", "save_model", "checkpoint", "eval_generation",
    ]  # fmt: skip
    assert phases(frames) == [mark + name for name in names for mark in "+-"]
    ends = {end["phase"]: end for end in events(frames, "phase_end")}
    assert {name: end["error"] for name, end in ends.items() if "error" in end} == {
        "broadcast": "RuntimeError: NCCL: timed out",
        "save_model": "OSError: [Errno 28] No space left on device",
    }
    assert all(0 <= end["seconds"] < 30 for end in ends.values())
    assert [end["id"] for end in ends.values()] == [begin["id"] for begin in events(frames, "phase_begin")]
    assert {frame.step for frame in frames if frame.event in ("phase_begin", "phase_end")} == {4}


def test_a_model_actor_is_known_by_its_class_and_rank_and_its_batches_by_their_method(observed: Observed) -> None:
    frames = observed.frames(
        ACTOR
        + """
assert actor.execute_batch("forward", {"sequences": [1, 2, 3]}, 0, 2) == [2, 3]
assert actor.execute_batch(method_name="forward", all_data={"sequences": [1]}, start_idx=0, end_idx=1) == [2]
ActorPPOTrainer().ppo_train(kl_ctl=0.5)
"""
    )
    assert {(frame.role, frame.rank) for frame in frames} == {("PolicyModelActor", 3)}
    (start,) = events(frames, "process_start")
    assert start["world_size"] == 8
    assert phases(frames) == ["+forward", "-forward", "+forward", "-forward", "+ppo_train", "-ppo_train"]


SFT = """
from openrlhf.trainer.sft_trainer import SFTTrainer
from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy
args = N(use_wandb="SECRET", input_key="q")
trainer = SFTTrainer("model", DeepspeedStrategy(args, int(RANK)), None, [], [], None)
for step in (1, 2):
    trainer.save_logs_and_checkpoints(args, step, None, {"gpt_loss": step / 2, "loss_mean": 1.0}, {})
"""


def test_a_fine_tuning_rank_0_reports_metrics_evaluations_and_checkpoints(observed: Observed) -> None:
    frames = observed.frames("import os; os.environ['RANK'] = RANK = '0'\n" + SFT)
    assert [(frame.step, frame.metrics) for frame in frames if frame.kind == "metrics"] == [
        (1, {"train/gpt_loss": 0.5, "train/loss_mean": 1.0}),
        (2, {"train/gpt_loss": 1.0, "train/loss_mean": 1.0}),
    ]
    assert phases(frames) == ["+eval", "-eval", "+checkpoint", "-checkpoint"]
    assert {(frame.role, frame.rank) for frame in frames} == {("SFTTrainer", 0)}
    assert events(frames, "run_start")[0]["args"] == {"use_wandb": "[redacted]", "input_key": "q"}


def test_the_other_ranks_report_what_they_do_but_no_metrics(observed: Observed) -> None:
    frames = observed.frames("import os; os.environ['RANK'] = RANK = '1'\n" + SFT)
    assert not [frame for frame in frames if frame.kind == "metrics"]
    assert phases(frames) == ["+eval", "-eval", "+checkpoint", "-checkpoint"]
    assert {frame.rank for frame in frames} == {1}
    assert {frame.step for frame in frames if frame.event == "phase_end"} == {2}


def test_the_shapes_of_0_8_are_understood(observed: Observed) -> None:
    frames = observed.frames(
        """
from openrlhf.trainer.ppo_trainer import PPOTrainer
from openrlhf.trainer.ppo_utils.experience_maker import SamplesGenerator
args = N(use_wandb="SECRET", n_samples_per_prompt=8)
trainer = PPOTrainer("pretrain", N(args=args, is_rank_0=lambda: True), None, do_sample=True)
assert SamplesGenerator([], None, None, 1024).generate_samples(["p"], ["l"]) == ["p", "l"]
trainer.ppo_train(1)
trainer._broadcast_to_vllm()
trainer.evaluate([], 3)
trainer.save_logs_and_checkpoints(args, 3, None, {"kl": 0.5, "generated_samples": ["text"]}, {})
assert trainer.saved == (3, ["text"], {"kl": 0.5})
""",
        files=V0_8,
    )
    assert [(frame.step, frame.metrics) for frame in frames if frame.kind == "metrics"] == [(3, {"train/kl": 0.5})]
    names = ["generation", "ppo_train", "broadcast", "eval"]
    assert phases(frames) == [mark + name for name in names for mark in "+-"]
    assert events(frames, "run_start")[0]["args"] == {"use_wandb": "[redacted]", "n_samples_per_prompt": 8}
    assert events(frames, "attached")[-1]["missing"] == [
        f"openrlhf.trainer.ppo_trainer.{name}"
        for name in ("BasePPOTrainer.init_checkpoint_states", "compute_eval_metrics")
    ]


def test_the_actors_of_0_8_2_are_known_by_their_former_bases(observed: Observed) -> None:
    launcher = LAUNCHER.replace("BaseDistributedActor", "DistributedTorchRayActor").replace(
        "BaseModelActor", "BasePPORole"
    )
    actor = PPO_ACTOR.replace("BaseModelActor", "BasePPORole").replace("def broadcast", "def _broadcast")
    frames = observed.frames(
        ACTOR + 'assert actor.execute_batch("forward", {"sequences": [1]}, 0, 1) == [2]\n',
        files={**V0_8, "openrlhf/trainer/ray/launcher.py": launcher, "openrlhf/trainer/ray/ppo_actor.py": actor},
    )
    assert {(frame.role, frame.rank) for frame in frames} == {("PolicyModelActor", 3)}
    assert phases(frames) == ["+forward", "-forward"]
    attached = events(frames, "attached")[-1]
    assert attached["missing"] == []
    assert "openrlhf.trainer.ray.ppo_actor.ActorPPOTrainer._broadcast_to_vllm" in attached["bound"]


def test_a_function_without_a_parameter_that_its_hook_reads_is_left_alone_and_named(observed: Observed) -> None:
    renamed = PPO_TRAINER.replace("logs_dict", "logs")
    frames = observed.frames(
        TRAINER + 'trainer.save_logs_and_checkpoints(1, {"kl": 0.1}, {})\ntrainer.ppo_train(1)\n',
        files={**V0_11, "openrlhf/trainer/ppo_trainer.py": renamed},
    )
    saves = "openrlhf.trainer.ppo_trainer.BasePPOTrainer.save_logs_and_checkpoints"
    attached = events(frames, "attached")[-1]
    assert (attached["missing"], attached["changed"]) == ([saves], {saves: "logs_dict"})
    assert not [frame for frame in frames if frame.kind == "metrics"]
    assert phases(frames) == ["+ppo_train", "-ppo_train"]


def test_every_former_place_is_hooked_and_so_is_the_one_that_it_became() -> None:
    hooked = {f"{module}.{symbol}" for module, wrappers in WRAPPERS.items() for symbol in wrappers}
    assert set(FORMER) | set(FORMER.values()) <= hooked
    assert set(FORMER) & set(FORMER.values()) == set()


def test_a_process_forked_after_the_start_has_a_stream_of_its_own(observed: Observed) -> None:
    frames = observed.frames(
        TRAINER
        + """
import os
trainer.ppo_train(1)
child = os.fork()
if child == 0:
    code = 1
    try:
        trainer.ppo_train(2)
        process.emitter.close(10)
        code = 0
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
trainer.broadcast_to_vllm()
"""
    )
    by_pid = {pid: [frame for frame in frames if frame.pid == pid] for pid in {frame.pid for frame in frames}}
    assert len(by_pid) == len({frame.stream for frame in frames}) == 2
    assert sorted(map(phases, by_pid.values()), key=len) == [  # whose frames come first is open
        ["+ppo_train", "-ppo_train"],
        ["+ppo_train", "-ppo_train", "+broadcast", "-broadcast"],
    ]
