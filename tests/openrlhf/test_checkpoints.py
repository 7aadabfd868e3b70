"""Checkpoints that OpenRLHF itself writes: found while they are written, judged right, rotated without an alarm.

``RLHFD_ALL_CHECKPOINTS`` adds further runs; ``RLHFD_KEEP_CHECKPOINTS`` names a folder to which the runs' folders are
copied when they are over.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from openrlhf.lab import Lab, Process
from openrlhf.runs import VARIANTS, start_dpo, start_ppo, start_rm, start_sft
from rlhfd_daemon.checkpoints.completeness import Known, Limits, State
from rlhfd_daemon.checkpoints.health import KINDS
from rlhfd_daemon.checkpoints.layout import Description, Layout, describe
from rlhfd_daemon.checkpoints.report import layout_of, report
from rlhfd_daemon.checkpoints.scan import Scanner
from rlhfd_daemon.checkpoints.tracking import Change, News, Tracked, track

pytestmark = pytest.mark.timeout(1200)

STEPS = 6
RUN_SECONDS = 500.0
LIMITS = Limits(settle_seconds=2.0, broken_seconds=60.0)
EVERY_STEP = ("--ckpt.save_steps", "1", "--ckpt.max_num", "2", "--ckpt.save_hf")
LORA = ("--ds.lora.rank", "4", "--ds.lora.alpha", "8")
ZERO3 = ("--ds.zero_stage", "3")


@dataclass
class Watched:
    """What was seen of a run's folder: every change, and the states that a checkpoint had when it was looked at."""

    folder: Path
    layout: Layout
    changes: list[Change] = field(default_factory=list)
    exit_code: int = 0
    looks: int = 0

    def news(self, news: News) -> list[str]:
        """The paths of which this was said, in order."""
        return [change.description.path for change in self.changes if change.news is news]

    def checkpoint(self, path: str) -> Description:
        (one,) = [one for one in self.layout.checkpoints if one.path == path]
        return one


def watched(process: Process, folder: Path) -> Watched:
    """Look at ``folder`` without a pause until the run is over, and then until everything has settled."""
    scanner, tracked, found = Scanner(), Tracked(str(folder)), Watched(folder, Layout())
    deadline = time.monotonic() + RUN_SECONDS
    alive = True
    with process:
        while alive or tracked.unsettled:
            assert time.monotonic() < deadline, f"not over: {tracked.states}\n{process.tail()}"
            alive = process.returncode is None
            known = functools.partial(_said, Known(alive=alive))
            tree = scanner.scan(str(folder))
            if tree is not None:
                found.layout = describe(tree)
                tracked, changes = track(tracked, found.layout, time.time(), known, LIMITS)
                found.changes += changes
                found.looks += 1
            time.sleep(0.02 if alive else 0.2)
        found.exit_code = process.wait(1)
    keep = os.environ.get("RLHFD_KEEP_CHECKPOINTS")
    if keep:
        shutil.copytree(folder, Path(keep) / folder.name, dirs_exist_ok=True, symlinks=True)
    assert found.exit_code == 0, process.tail()
    return found


def _said(known: Known, _found: Description) -> Known:
    return known


RANKS: dict[str, tuple[Callable[..., Process], int, tuple[str, ...]]] = {
    "sft": (start_sft, 1, ()),
    "sft-lora-zero3": (start_sft, 1, (*LORA, *ZERO3)),
    "rm": (start_rm, 1, ()),
    "dpo": (start_dpo, 1, ()),
}
if os.environ.get("RLHFD_ALL_CHECKPOINTS"):  # four minutes more, for what the others show in other pairings
    RANKS |= {
        "sft-two-ranks": (start_sft, 2, ()),
        "sft-zero3": (start_sft, 2, ZERO3),
        "sft-lora": (start_sft, 1, LORA),
    }
PPO: dict[str, tuple[str, ...]] = {
    "ppo-zero3": VARIANTS["reinforce"],
    "ppo-best": (
        "--eval.dataset",
        "{assets}/eval_prompts.jsonl",
        "--eval.steps",
        "2",
        "--eval.n_samples_per_prompt",
        "2",
    ),
}


@pytest.fixture(scope="session")
def trained(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Watched]:
    """The outcome of a run, which is made when it is asked for first."""
    outcomes: dict[str, Watched] = {}

    def outcome(name: str) -> Watched:
        if name not in outcomes:
            folder = tmp_path_factory.mktemp("run")
            start, ranks, extra = RANKS[name]
            options: dict[str, Any] = {"steps": STEPS, "log": folder / f"{name}.log", "extra": (*EVERY_STEP, *extra)}
            outcomes[name] = watched(start(lab, name, ranks=ranks, **options), folder / name)
        return outcomes[name]

    return outcome


@pytest.fixture(scope="session")
def ppo(lab: Lab, ray: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Watched]:
    """As ``trained``, of PPO."""
    outcomes: dict[str, Watched] = {}

    def outcome(name: str) -> Watched:
        if name not in outcomes:
            folder = tmp_path_factory.mktemp("run")
            options: dict[str, Any] = {
                "steps": STEPS,
                "log": folder / f"{name}.log",
                "extra": (*EVERY_STEP, *PPO[name]),
            }
            outcomes[name] = watched(start_ppo(lab, ray, name, **options), folder / name)
        return outcomes[name]

    return outcome


def check(run: Watched) -> None:
    """What holds of every run: nothing was called broken, what is left is complete, and rotation is seen."""
    assert run.news(News.BROKEN) == []
    left = {one.path for one in run.layout.checkpoints}
    assert left
    completed = set(run.news(News.COMPLETE))
    assert left <= completed
    assert set(run.news(News.VANISHED)) == set(run.news(News.APPEARED)) - left
    for one in run.layout.checkpoints:
        assert not one.missing, one.path
        assert one.cut_off == (), one.path
    for change in run.changes:
        if change.news is News.COMPLETE and change.description.kind == "deepspeed":
            assert change.verdict.state is State.COMPLETE
            assert "metric.json is whole" in change.verdict.reason


def judged(run: Watched, lab: Lab) -> None:
    """All that is left is healthy; of the newest of each kind the statistics are torch's own."""
    newest: dict[tuple[str, str | None], Description] = {}
    for one in run.layout.checkpoints:
        found = report(run.folder, one)
        assert found.score > 0.95, (one.path, found.issues)
        if not one.best and one.path.startswith("checkpoints/"):
            known = newest.get((one.kind, one.role))
            newest[one.kind, one.role] = one if known is None or (one.step or 0) > (known.step or 0) else known
    for one in newest.values():
        ours = report(run.folder, one).examined.tensors
        command = [lab.python, Path(__file__).parent / "checkpoint_in_torch.py", run.folder / one.path]
        said = subprocess.run(command, env=lab.environment(), check=True, timeout=300, stdout=subprocess.PIPE)
        told: dict[str, dict[str, float]] = json.loads(said.stdout.splitlines()[-1])
        # What is frozen under ZeRO-3 has no whole weight in the model's states; DeepSpeed counts it with the copies.
        keys = {
            name if (name := "/".join(key)) in told else f"master/{key[1]}": key
            for key in ours
            if key[0] in ("weight", "master")
        }
        assert keys
        assert keys.keys() <= told.keys()
        for name, key in keys.items():
            for what, value in told[name].items():
                assert getattr(ours[key], what) == pytest.approx(value, rel=1e-9, abs=1e-12), (one.path, name, what)


@pytest.mark.parametrize("name", RANKS)
def test_checkpoints_of_sft_rm_and_dpo(name: str, trained: Callable[[str], Watched], lab: Lab) -> None:
    run = trained(name)
    check(run)
    judged(run, lab)
    _, ranks, extra = RANKS[name]
    steps = {one.path: one for one in run.layout.checkpoints if one.kind == "deepspeed"}
    newest = steps[f"checkpoints/global_step{STEPS}"]
    assert newest.latest is True
    assert newest.zero == (3 if "3" in extra else 2)
    assert newest.data_world_size == ranks
    assert len(newest.optimizer_ranks) == ranks
    exports = [one for one in run.layout.checkpoints if one.kind in ("export", "adapter")]
    assert {one.kind for one in exports} == {"adapter" if "--ds.lora.rank" in extra else "export"}
    assert "model" in {one.path for one in exports}
    # Exports beside the tags count for --ckpt.max_num.
    beside = [one for one in run.layout.checkpoints if one.path.startswith("checkpoints/")]
    assert len(beside) <= 3
    assert any("global_step" in path for path in run.news(News.VANISHED))


@pytest.mark.parametrize("name", PPO)
def test_checkpoints_of_ppo(name: str, ppo: Callable[[str], Watched], lab: Lab) -> None:
    run = ppo(name)
    check(run)
    judged(run, lab)
    roles = {one.role for one in run.layout.checkpoints if one.kind == "deepspeed"}
    assert roles == ({"actor"} if name == "ppo-zero3" else {"actor", "critic"})
    tags = [one for one in run.layout.checkpoints if one.path.startswith("checkpoints/_actor/")]
    assert len([one for one in tags if not one.best]) == 2
    if name == "ppo-zero3":
        assert {(one.zero, one.data_world_size) for one in tags} == {(3, 2)}
    if name == "ppo-best":
        assert len([one for one in tags if one.best]) == 1
    # Nobody rotates these.
    exports = [one for one in run.layout.checkpoints if one.path.startswith("checkpoints/global_step")]
    assert {one.step for one in exports} == set(range(1, STEPS + 1))
    assert {one.role for one in exports} == {"actor"}


WEIGHT, HEAD = "model.layers.0.mlp.up_proj.weight", "lm_head.weight"
OPTIMIZER = "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
PLANTED = {  # by name in plant_defects.py: beside the healthy one or alone, kind, subject, most that the score may be
    "healthy": (False, None, "", 1.0),
    "later": (True, None, "", 1.0),
    "nan": (False, "non_finite", HEAD, 0.4),
    "infinite": (False, "non_finite", WEIGHT, 0.4),
    "zeroed": (False, "constant", WEIGHT, 0.7),
    "cut": (False, "unreadable", OPTIMIZER, 0.3),
    "model-missing": (False, "unreadable", "mp_rank_00_model_states.pt", 0.3),
    "rank-missing": (False, "unreadable", OPTIMIZER.replace("rank_0_", "rank_1_"), 0.3),
    "step": (False, "step", "", 0.7),
    "moments": (False, "moments_non_finite", "(exp_avg_sq)", 0.5),
    "stale": (True, "step", "optimizer", 0.7),
    "frozen": (True, "frozen", WEIGHT, 0.8),
    "exploded": (True, "moved", HEAD, 0.85),
}


def check_planted(folder: Path) -> None:
    """Each defect is the only kind of issue, names what is wrong and what to do, and lowers the health."""
    (healthy,) = layout_of(folder / "healthy").checkpoints
    for name, (beside, kind, subject, most) in PLANTED.items():
        (found,) = layout_of(folder / name).checkpoints
        before = (folder / "healthy", healthy) if beside else None
        one = report(folder / name, found, before, every_rank=True)
        assert {issue.kind for issue in one.issues} == ({kind} if kind else set()), (name, one.issues)
        assert not kind or any(issue.subject.endswith(subject) for issue in one.issues), (name, one.issues)
        assert one.score <= most + 1e-9, (name, one.score)
        assert kind or one.score == 1.0, name
        assert not kind or KINDS[kind].remedy


def test_each_defect_that_is_planted_in_a_real_tag_is_found(
    trained: Callable[[str], Watched], lab: Lab, tmp_path: Path
) -> None:
    tag = trained("sft").folder / "checkpoints" / f"global_step{STEPS}"
    command = [lab.python, Path(__file__).parent / "plant_defects.py", tag, tmp_path]
    subprocess.run(command, env=lab.environment(), check=True, timeout=300)
    check_planted(tmp_path)
