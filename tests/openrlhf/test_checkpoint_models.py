"""Models of the architectures that OpenRLHF trains: torch's own statistics, healthy before and after training."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from openrlhf.lab import Lab
from rlhfd_daemon.checkpoints.groups import group_of
from rlhfd_daemon.checkpoints.report import Report, layout_of, report

PROGRAM = Path(__file__).with_name("make_models.py")
NAMES = ("llama", "llama-sharded", "qwen2", "qwen3", "mistral", "gemma2", "mixtral", "gpt2-bin")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab, made = Lab.find(), tmp_path_factory.mktemp("models")
    subprocess.run([lab.python, PROGRAM, made], env=lab.environment(), check=True, timeout=300)
    return made


def judged(root: Path) -> tuple[Report, Report]:
    first, second = layout_of(root).checkpoints
    return report(root, first), report(root, second, (root, first))


@pytest.mark.parametrize("name", NAMES)
def test_statistics_of_every_tensor_are_torch_s(models: Path, name: str) -> None:
    for one, step in zip(judged(models / name), (1, 2), strict=True):
        told = json.loads((models / name / f"global_step{step}_hf.json").read_text())
        found = {"/".join(key): statistics for key, statistics in one.examined.tensors.items()}
        assert found.keys() == told.keys()
        for key, values in told.items():
            for what, value in values.items():
                assert getattr(found[key], what) == pytest.approx(value, rel=1e-9, abs=1e-12), (step, key, what)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_healthy_before_training_and_after(models: Path, name: str) -> None:
    before, after = judged(models / name)
    assert (before.issues, after.issues) == ((), ())
    assert min(before.score, after.score) > 0.95
    compared = [one for key, one in after.examined.comparisons.items() if group_of(key[1]) in ("attention", "mlp")]
    assert compared
    assert all(one.changed for one in compared if one.elements > 1000)
    assert all(0 < (one.relative_update or 0) < 0.1 for one in compared if one.elements > 1000)


@pytest.mark.parametrize("name", NAMES)
def test_every_part_of_a_model_is_known(models: Path, name: str) -> None:
    (one, _) = judged(models / name)
    groups = {group: statistics.elements for (_, group), statistics in one.examined.groups.items()}
    assert {"embedding", "attention", "mlp", "norm"} <= groups.keys()
    assert groups.get("other", 0) < 0.01 * sum(groups.values())
    tied = name in ("qwen2", "gemma2")
    assert ("head" in groups) is not tied
    sharded = len(one.found.of("weights"))
    assert sharded > 1 if name.endswith("-sharded") else sharded == 1
