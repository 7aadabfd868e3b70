"""A reward that turns NaN stops a real PPO run: within a step, with a checkpoint that training goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openrlhf.conftest import Hook
from openrlhf.lab import Lab
from openrlhf.runs import VARIANTS, rows, start_ppo, under_rlhfd
from rlhfd_alerts.testing import SECRET
from rlhfd_daemon.frame import Frame
from support import DaemonProcess, wait_for

STEPS, FAULT_STEP = 14, 4
NONFINITE = "matchers = ['severity=\"critical\"', 'family=\"nonfinite\"']"
ACTIONS = f'[[actions]]\ntype = "stop"\n{NONFINITE}\n'
SAVE = f'[[actions]]\ntype = "checkpoint"\n{NONFINITE}\n'


@dataclass(frozen=True)
class Stopped:
    """What is left of a run: the daemon's frames, OpenRLHF's own rows, what was told, and where it ran."""

    exit_code: int
    frames: list[Frame]
    logged: list[dict[str, Any]]
    told: list[dict[str, Any]]
    folder: Path

    def answers(self, state: str) -> list[Frame]:
        return [one for one in self.frames if one.event == "action_answer" and one.fields["state"] == state]


def run_with(lab: Lab, ray: str, folder: Path, actions: str, name: str, extra: tuple[str, ...] = ()) -> Stopped:
    trace = folder / f"{name}.jsonl"
    with Hook() as hook:
        target = f'[targets.hook]\nurl = "{hook.url}"\nsecret_env = "HOOK_SECRET"\nallow_private = true\n'
        home = folder / name
        home.mkdir()
        daemon = DaemonProcess(home, target + actions, {"HOOK_SECRET": SECRET}).start()
        *command, dashes = under_rlhfd(lab, name, daemon.endpoint)
        try:
            with start_ppo(
                lab,
                ray,
                name,
                steps=STEPS,
                reward="nan",
                fault_step=FAULT_STEP,
                log=folder / f"{name}.log",
                trace=trace,
                prefix=(*command, "--allow", "checkpoint,stop", dashes),
                extra=extra,
            ) as process:
                exit_code = process.wait(500)
                assert exit_code == 0, process.tail()
            wait_for(lambda: daemon.status()["targets"]["hook"].get("delivered") == len(hook.calls))
        finally:
            daemon.stop()
        return Stopped(exit_code, daemon.frames(), rows(trace), [body["data"] for _, body in hook.calls], folder / name)


@pytest.fixture(scope="module")
def stopped(lab: Lab, ray: str, folder: Path) -> Stopped:
    return run_with(lab, ray, folder, ACTIONS, "stopped")


def last_step(stopped: Stopped) -> int:
    return int(stopped.logged[-1]["step"])


def test_the_run_ends_by_itself_within_one_step_after_it_was_asked(stopped: Stopped) -> None:
    assert stopped.exit_code == 0
    assert FAULT_STEP <= last_step(stopped) < STEPS
    (accepted,), (done,) = stopped.answers("accepted"), stopped.answers("done")
    assert accepted.role == done.role == "PPOTrainer"
    assert done.step == last_step(stopped)
    later = [row["step"] for row in stopped.logged if row["time"] > accepted.time_ns / 1e9]
    assert later in ([], [done.step])


def test_it_ends_as_any_run_does_and_saves_its_final_model(stopped: Stopped) -> None:
    trainer = [one for one in stopped.frames if one.role == "PPOTrainer" and one.kind == "event"]
    assert trainer[-1].event == "process_stop"
    assert (stopped.folder / "model" / "config.json").exists()


def test_the_checkpoint_of_the_last_step_is_complete_and_the_only_one(stopped: Stopped) -> None:
    tag = f"global_step{last_step(stopped)}"
    for role in ("_actor", "_critic"):
        saved = stopped.folder / "checkpoints" / role
        assert [one.name for one in saved.iterdir() if one.is_dir()] == [tag]
        assert (saved / "latest").read_text() == tag
        assert {one.name.split("_", 1)[0] for one in (saved / tag).iterdir()} >= {"mp", "bf16"}


def test_all_of_it_is_told_in_the_messages_of_the_episode(stopped: Stopped) -> None:
    episode = stopped.told[0]["episode"]["id"]
    texts = [one["summary"] for one in stopped.told if one["episode"]["id"] == episode]
    assert "NaN" in texts[0]
    assert any("asked for a stop" in text for text in texts)
    assert any(f"checkpoint global_step{last_step(stopped)} is saved" in text for text in texts)


def test_training_goes_on_from_that_checkpoint(stopped: Stopped, lab: Lab, ray: str, folder: Path) -> None:
    trace = folder / "resumed.jsonl"
    extra = ("--ckpt.load_enable",)
    log = folder / "resumed.log"
    with start_ppo(lab, ray, "stopped", steps=STEPS, log=log, trace=trace, extra=extra) as process:
        assert process.wait(500) == 0, process.tail()
    assert [row["step"] for row in rows(trace)] == list(range(last_step(stopped) + 1, STEPS + 1))


def test_asynchronous_training_saves_when_asked_and_says_that_it_cannot_be_stopped(
    lab: Lab, ray: str, folder: Path
) -> None:
    run = run_with(lab, ray, folder, ACTIONS + SAVE, "async", VARIANTS["async"])
    (refused,), (done,) = run.answers("refused"), run.answers("done")
    assert refused.fields["action"] == "stop"
    assert "asynchronous" in refused.fields["reason"]
    assert (done.role, done.fields["action"]) == ("TrainingActor", "checkpoint")
    assert last_step(run) == STEPS
    assert (run.folder / "checkpoints" / "_actor" / f"global_step{done.step}").is_dir()
