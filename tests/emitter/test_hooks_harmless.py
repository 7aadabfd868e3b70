"""A run with the hooks does exactly what it does without, whatever goes wrong in them or is handed to them."""

from __future__ import annotations

import pytest

from observed import ACTOR, TRAINER, V0_11, Observed, events, phases

# Every hooked function, with good and bad arguments: prints what comes back and what is raised.
EVERYTHING = (
    TRAINER
    + ACTOR
    + """
import inspect
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.sft_trainer import SFTTrainer
class Hostile:
    def __str__(self): raise RuntimeError("no text")
    __repr__ = __bool__ = __float__ = __eq__ = __hash__ = __len__ = __str__
    def __getattr__(self, name): raise RuntimeError("no attributes")
def show(function, *args, **kwargs):
    try:
        print(function(*args, **kwargs))
    except BaseException as error:
        lines = [code.co_name for code in frames_of(error) if code.co_name != "wrapper"]
        print(type(error).__name__, error if not isinstance(error, TypeError) else "", error.__cause__, lines[-1])
def frames_of(error):
    trace = error.__traceback__
    while trace:
        yield trace.tb_frame.f_code
        trace = trace.tb_next
show(trainer.ppo_train, 1)
show(trainer.ppo_train)
show(trainer.save_logs_and_checkpoints, 1, {"kl": 0.1}, {})
show(trainer.save_logs_and_checkpoints, Hostile(), {"kl": Hostile()}, Hostile())
show(trainer.save_logs_and_checkpoints, 1, None)
show(trainer.save_logs_and_checkpoints, wrong=1)
show(compute_eval_metrics, [], [1.0], 1)
show(compute_eval_metrics, [], [], 1)
show(ActorPPOTrainer().broadcast_to_vllm)
show(actor.execute_batch, "forward", {"sequences": [1]}, 0, 1)
show(actor.execute_batch, "absent", {"sequences": [1]}, 0, 1)
show(actor.execute_batch, Hostile(), {}, 0, 1)
show(actor.execute_batch, method_name=Hostile(), all_data={}, start_idx=0, end_idx=1)
show(actor.execute_batch)
show(PolicyModelActor, 1)
show(PPOTrainer, *[None] * 7)
show(lambda: type(SFTTrainer(None, Hostile(), None, [], [], None)).__name__)
show(SamplesGenerator(strategy, [], [], None, []).generate_samples, top_p=1.0)
show(strategy.save_model, None, None, "out")
for function in (PPOTrainer.ppo_train, compute_eval_metrics, PolicyModelActor.__init__, PolicyModelActor.execute_batch):
    print(function.__qualname__, function.__module__, inspect.signature(function), function.__doc__)
"""
)


def test_every_call_returns_and_raises_what_it_does_without_us(observed: Observed) -> None:
    assert observed.output(EVERYTHING) == observed.output(EVERYTHING, hooks=False)


FAULTS = {
    "opening": "process.open = fail",
    "phases": "process.begin = process.end = fail",
    "emitting": "from rlhfd_emitter.emitter import Emitter\nEmitter.emit = Emitter.event = fail",
    "making an emitter": "from rlhfd_emitter.emitter import Emitter\nEmitter.__init__ = fail",
    "the log": "process.open = process.begin = fail\nimport logging\nlogging.Logger.warning = fail",
    "binding": "hooks._bind_one = fail",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hook_that_goes_wrong_changes_nothing(fault: str, observed: Observed) -> None:
    fail = "def fail(*args, **kwargs): raise ZeroDivisionError('on purpose')\n"
    faulty = "if process:\n    " + FAULTS[fault].replace("\n", "\n    ") + "\n"
    program = fail + faulty + EVERYTHING
    assert observed.output(program) == observed.output(program, hooks=False)


def test_a_reloaded_module_is_bound_again_and_reported_once(observed: Observed) -> None:
    frames = observed.frames(
        "import importlib, openrlhf.trainer.ppo_trainer as module\n"
        "importlib.reload(module)\n" + TRAINER + "trainer.ppo_train(1)\n"
    )
    assert phases(frames) == ["+ppo_train", "-ppo_train"]
    (attached,) = events(frames, "attached")
    assert len(attached["bound"]) == len(set(attached["bound"]))
    assert attached["missing"] == []


def test_a_version_that_lacks_everything_is_still_the_user_s_to_run(observed: Observed) -> None:
    files = {**V0_11, "openrlhf/trainer/ppo_trainer.py": "class BasePPOTrainer: pass\n", "user.py": "value = 3\n"}
    program = "import openrlhf.trainer.ppo_trainer, user\nprint(user.value)\n"
    assert observed.output(program, files=files) == "3\n"
    assert not observed.receiver.frames(observed.run)
