"""Checkpoints that OpenRLHF itself writes: found while they are written, judged right, rotated without an alarm."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from openrlhf.algorithms import SAVING, STEPS, Outcome
from openrlhf.lab import Lab
from openrlhf.trained import RANKS, Trained
from openrlhf.trained import STEPS as RANK_STEPS
from openrlhf.watched import Watched
from rlhfd_daemon.checkpoints.completeness import State
from rlhfd_daemon.checkpoints.health import KINDS
from rlhfd_daemon.checkpoints.layout import Description
from rlhfd_daemon.checkpoints.report import layout_of, report
from rlhfd_daemon.checkpoints.tracking import News

pytestmark = pytest.mark.timeout(1200)


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
def test_checkpoints_of_sft_rm_and_dpo(name: str, trained: Callable[[str], Trained], lab: Lab) -> None:
    run = trained(name).watched
    check(run)
    judged(run, lab)
    _, ranks, extra = RANKS[name]
    steps = {one.path: one for one in run.layout.checkpoints if one.kind == "deepspeed"}
    newest = steps[f"checkpoints/global_step{RANK_STEPS}"]
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


@pytest.mark.parametrize("name", SAVING)
def test_checkpoints_of_ppo(name: str, algorithms: dict[str, Outcome], lab: Lab) -> None:
    run = algorithms[name].watched
    check(run)
    judged(run, lab)
    roles = {one.role for one in run.layout.checkpoints if one.kind == "deepspeed"}
    assert roles == ({"actor", "critic"} if name == "async" else {"actor"})
    tags = [one for one in run.layout.checkpoints if one.path.startswith("checkpoints/_actor/")]
    assert len([one for one in tags if not one.best]) == 2
    if name == "async":
        assert len([one for one in tags if one.best]) == 1
    else:
        assert {(one.zero, one.data_world_size) for one in tags} == {(3, 2)}
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
    trained: Callable[[str], Trained], lab: Lab, tmp_path: Path
) -> None:
    tag = trained("sft").watched.folder / "checkpoints" / f"global_step{RANK_STEPS}"
    command = [lab.python, Path(__file__).parent / "plant_defects.py", tag, tmp_path]
    subprocess.run(command, env=lab.environment(), check=True, timeout=300)
    check_planted(tmp_path)
