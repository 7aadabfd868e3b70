"""PPO with hooks that are broken in every way: each is lost alone, doctor names it, and training goes on."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openrlhf.conftest import wait_for_step
from openrlhf.lab import Lab
from openrlhf.runs import rows, start_ppo, under_rlhfd
from rlhfd_daemon.frame import Frame
from support import DaemonProcess

STEPS, DOCTOR_AT = 7, 4
RENAMED = "openrlhf.trainer.ppo_utils.samples_generator.SamplesGenerator.generate_samples"
BROKEN = {
    "openrlhf.trainer.ray.ppo_actor.ActorPPOTrainer.ppo_train": "PolicyModelActor",
    "vllm.v1.engine.async_llm.AsyncLLM.generate": "RolloutRayActor",
    "signals.advantage": "PPOTrainer",
}


@dataclass(frozen=True)
class Outcome:
    """What is left of the run; ``doctor`` is what it said meanwhile, ``alerts`` fired at its end."""

    doctor: str
    logged: list[dict[str, Any]]
    frames: list[Frame]
    alerts: list[dict[str, Any]]
    log: str


@pytest.fixture(scope="module")
def outcome(lab: Lab, ray: str, folder: Path) -> Outcome:
    daemon = DaemonProcess(folder).start()
    trace, log = folder / "trace.jsonl", folder / "ppo.log"
    prefix, env = under_rlhfd(lab, "broken", daemon.endpoint), {"LAB_BREAK_RLHFD": "hooks"}
    try:
        with start_ppo(lab, ray, "broken", steps=STEPS, log=log, trace=trace, prefix=prefix, env=env) as process:
            wait_for_step(trace, DOCTOR_AT, 600, lambda: process.returncode is None)
            command, here = [str(lab.venv / "bin" / "rlhfd"), "doctor"], {"RLHFD_ENDPOINT": daemon.endpoint}
            doctor = subprocess.run(
                command, env={**lab.environment(), **here}, capture_output=True, text=True, timeout=120
            )
            assert process.wait(600) == 0, process.tail()
        alerts = daemon.status()["alerts"]
    finally:
        daemon.stop()
    return Outcome(doctor.stdout, rows(trace), daemon.frames(), alerts, log.read_text(errors="replace"))


def test_the_run_trains_every_step_and_all_it_logs_arrives(outcome: Outcome) -> None:
    assert [row["step"] for row in outcome.logged] == list(range(1, STEPS + 1))
    frames = [frame for frame in outcome.frames if "train/reward" in frame.metrics]
    for row, frame in zip(outcome.logged, frames, strict=True):
        logged = {key: value for key, value in row.items() if key.startswith("train/")}
        assert (frame.step, frame.metrics) == (row["step"], logged)


def test_every_other_hook_goes_on_to_the_last_step(outcome: Outcome) -> None:
    signals: dict[int | None, set[str]] = {}
    for frame in outcome.frames:
        signals.setdefault(frame.step, set()).update(frame.metrics)
    for step in range(1, STEPS + 1):
        assert {"rlhfd/return/mean", "rlhfd/reward/mean", "rlhfd/kl/k1", "rlhfd/tokens"} <= signals[step]
        assert not [name for name in signals[step] if name.startswith(("rlhfd/advantage/", "rlhfd/generation/"))]
    begun = [(f.role, str(f.fields["phase"])) for f in outcome.frames if f.event == "phase_begin"]
    for role, phase in (
        ("PPOTrainer", "make_experience"), ("PPOTrainer", "broadcast"), ("PPOTrainer", "ppo_train"),
        ("CriticModelActor", "ppo_train"), ("PolicyModelActor", "forward"),
    ):  # fmt: skip
        assert begun.count((role, phase)) >= STEPS
    lost = {("PPOTrainer", "generation"), ("RolloutRayActor", "generation"), ("PolicyModelActor", "ppo_train")}
    assert not lost & set(begun)


def test_no_phase_is_left_open(outcome: Outcome) -> None:
    marks = {"phase_begin": 1, "phase_end": -1}
    counts = [marks[frame.event] for frame in outcome.frames if frame.event in marks]
    assert sum(counts) == 0


def test_each_broken_hook_says_so_twice_and_the_log_no_more_often(outcome: Outcome) -> None:
    told = [(f.fields["hook"], f.role, f.fields["failures"], f.fields["disabled"])
            for f in outcome.frames if f.event == "hook_failed"]  # fmt: skip
    expected = [(hook, role, *said) for hook, role in BROKEN.items() for said in ((1, False), (3, True))]
    assert sorted(told) == sorted(expected)
    for hook in BROKEN:
        assert 1 <= outcome.log.count(f"rlhfd: hook {hook} failed") <= 2


def test_doctor_names_what_is_lost_while_the_run_goes_on(outcome: Outcome) -> None:
    lines = [line for line in outcome.doctor.splitlines() if "live hook" in line]
    for hook, role in BROKEN.items():
        text = "switched off after 3 failures in a row: RuntimeError: this hook is broken on purpose by the lab"
        assert [line for line in lines if line.startswith(f"warn  live hook {hook}: {text} (in {role}")]
    missing = f"warn  live hook {RENAMED}: missing: no such function in the running version (in PPOTrainer"
    assert [line for line in lines if line.startswith(missing)]
    assert len(lines) == len(BROKEN) + 1


def test_what_was_switched_off_is_an_alert(outcome: Outcome) -> None:
    summaries = [alert["summary"] for alert in outcome.alerts if alert["rule"] == "hook_off"]
    assert len(summaries) == len(BROKEN)
    assert all(any(f"rlhfd's hook {hook} in {role}" in one for one in summaries) for hook, role in BROKEN.items())
