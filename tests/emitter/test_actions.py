"""A checkpoint or a stop in the training's own thread: at the end of a step, by OpenRLHF's own means."""

from __future__ import annotations

from typing import Any

import pytest

from acting import FILES, SET_UP
from observed import V0_8, Observed, events

ASK = """
def ask(*actions):
    requests = process.emitter.requests
    requests._allowed = frozenset(("checkpoint", "stop"))
    requests.take([{{"id": action, "action": action}} for action in actions])
def step(done):
    if done == 2:
        ask({asked})
    return {{"kl": 0.1}}
"""
FIT = """
done = trainer.fit(SamplesGenerator(None, 3, [], None, []), step)
saved = args.ckpt.path + "/_actor"
print(done, args.ckpt.save_steps, sorted(os.listdir(saved)) if os.path.exists(saved) else [])
"""


def fit(observed: Observed, asked: str, before: str = "", files: dict[str, str] = FILES) -> tuple[str, list[Any]]:
    """What a run of six steps prints that is asked at its second one, and the answers."""
    set_up = SET_UP.replace("process = hooks.install()", "").replace("sys.argv[1]", repr(str(observed.directory / "c")))
    program = f"import os\n{set_up}\n{before}\n{ASK.format(asked=asked)}{FIT}"
    printed = observed.output(program, files=files)
    assert observed.stderr == ""
    answers = events(observed.receiver.frames(observed.run), "action_answer")
    return printed.strip(), [(one["state"], one["action"], one.get("tag") or one.get("reason")) for one in answers]


def test_a_run_that_is_asked_for_nothing_is_as_it_was(observed: Observed) -> None:
    assert fit(observed, "") == ("6 inf []", [])


def test_a_checkpoint_is_one_of_openrlhf_s_own_and_the_run_goes_on_with_its_settings(observed: Observed) -> None:
    accepted, done = ("accepted", "checkpoint", None), ("done", "checkpoint", "global_step2")
    assert fit(observed, "'checkpoint'") == ("6 inf ['global_step2']", [accepted, done])


def test_a_stop_saves_and_ends_every_episode_before_the_next_step(observed: Observed) -> None:
    accepted, done = ("accepted", "stop", None), ("done", "stop", "global_step2")
    assert fit(observed, "'stop'") == ("2 inf ['global_step2']", [accepted, done])


def test_both_at_once_save_once(observed: Observed) -> None:
    printed, answers = fit(observed, "'checkpoint', 'stop'")
    assert printed == "2 inf ['global_step2']"
    assert [(state, action) for state, action, _ in answers][2:] == [("done", "checkpoint"), ("done", "stop")]


def test_a_checkpoint_that_fails_ends_the_run_as_it_would_and_is_answered(observed: Observed) -> None:
    broken = "import os as os_\ndef fail(*_): raise OSError(28, 'No space left on device')\n"
    broken += "import openrlhf.trainer.ppo_trainer as held\nheld.os = N(makedirs=fail, path=os_.path)\n"
    wrapped = FILES | {"after.py": ""}
    before = broken + "real = trainer.fit\ndef fitted(*a):\n    try:\n        return real(*a)\n"
    before += "    except OSError as error:\n        return error.errno\ntrainer.fit = fitted\n"
    printed, answers = fit(observed, "'stop'", before, wrapped)
    assert printed == "28 inf []"
    assert answers[1][:2] == ("failed", "stop")
    assert "No space left on device" in answers[1][2]


def test_where_checkpoints_are_turned_off_a_stop_ends_the_run_and_says_that_none_was_saved(observed: Observed) -> None:
    printed, answers = fit(observed, "'checkpoint', 'stop'", "args.ckpt.disable_ds = True")
    assert printed == "2 inf []"
    assert [one[:2] for one in answers[2:]] == [("refused", "checkpoint"), ("done", "stop")]
    assert "--ckpt.disable_ds" in answers[3][2]


@pytest.mark.parametrize("role", ["TrainingActor", "GenerateSamplesActor", "PolicyModelActor"])
def test_only_the_trainer_saves_and_only_the_synchronous_one_stops(role: str, observed: Observed) -> None:
    set_up = SET_UP.replace("process = hooks.install()", f"process.open({role!r})").replace("sys.argv[1]", "'c'")
    frames = observed.frames(
        set_up
        + """
requests = process.emitter.requests
requests._allowed = frozenset(("checkpoint", "stop"))
requests.take([{"id": name, "action": name} for name in ("checkpoint", "stop")])
""",
        files=FILES,
    )
    states = [one["state"] for one in events(frames, "action_answer")]
    assert states == ["accepted" if role == "TrainingActor" else "refused", "refused"]


def test_a_version_that_hands_the_prompts_in_saves_but_cannot_be_stopped(observed: Observed) -> None:
    old = V0_8 | {
        "openrlhf/trainer/ppo_trainer.py": V0_8["openrlhf/trainer/ppo_trainer.py"].replace(
            "        self.saved =", "        self.is_saved = global_step % args.save_steps == 0\n        self.saved ="
        )
    }
    frames = observed.frames(
        """
from openrlhf.trainer.ppo_trainer import PPOTrainer
from openrlhf.trainer.ppo_utils.experience_maker import SamplesGenerator
args = N(save_steps=float("inf"), ckpt_path="c", disable_ds_ckpt=False, save_hf_ckpt=False)
trainer = PPOTrainer("m", N(args=args, is_rank_0=lambda: True), None)
generator = SamplesGenerator([], None, None, 1)
requests = process.emitter.requests
requests._allowed = frozenset(("checkpoint", "stop"))
requests.take([{"id": name, "action": name} for name in ("checkpoint", "stop")])
trainer.save_logs_and_checkpoints(args, 7, None, {"generated_samples": 1}, {})
assert trainer.is_saved and args.save_steps == float("inf")
trainer.save_logs_and_checkpoints(args, 8, None, {"generated_samples": 1}, {})
assert not trainer.is_saved
assert generator.generate_samples([1], [2]) == [1, 2]
""",
        files=old,
    )
    answers = [(one["state"], one["action"]) for one in events(frames, "action_answer")]
    assert answers == [("accepted", "checkpoint"), ("refused", "stop"), ("done", "checkpoint")]


def test_arguments_that_have_moved_are_answered_and_harm_nothing(observed: Observed) -> None:
    printed, answers = fit(
        observed, "'stop'", "trainer.args = N(train=args.train, ckpt=N(path='c'))\nold = type(trainer)\n"
        "def save(self, global_step, logs_dict=None, client_states=None): pass\n"
        "from rlhfd_emitter.actions import step_end\nold.save_logs_and_checkpoints = step_end(process, save)\n",
    )  # fmt: skip
    assert printed == "6 inf []"
    assert answers[1][:2] == ("failed", "stop")
    assert "not where they were" in answers[1][2]
