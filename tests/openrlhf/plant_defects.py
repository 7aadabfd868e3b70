"""Copies a real tag of DeepSpeed, each copy with one defect planted by torch. Runs in the environment of OpenRLHF.

Usage: python plant_defects.py TAG_FOLDER FOLDER. Writes ``FOLDER/NAME/<name of the tag>`` for each defect.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]

MODEL, OPTIMIZER = "mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
MLP, HEAD = "model.layers.0.mlp.up_proj.weight", "lm_head.weight"


def change(folder: Path, file: str, by: Callable[[Any], object]) -> None:
    """Loads ``file``, which ``by`` changes in place, and saves it as DeepSpeed does."""
    tree = torch.load(folder / file, map_location="cpu", weights_only=False)
    by(tree)
    torch.save(tree, folder / file)


def tensor(tree: Any, name: str) -> Any:
    return next(one for key, one in tree["module"].items() if key.endswith(name))


def base(tree: Any) -> Any:
    return tree["optimizer_state_dict"]["base_optimizer_state"]


def moments(tree: Any) -> Any:
    states = base(tree)["state"]
    return next(iter(states.values() if isinstance(states, dict) else states))


def later(folder: Path) -> None:
    """A healthy successor: weights, copies and moments a little further."""
    torch.manual_seed(1)

    def model(tree: Any) -> None:
        for one in tree["module"].values():
            if one.dim() > 1:
                one.mul_(1 + 0.02 * torch.randn(one.shape).to(one.dtype))

    def optimizer(tree: Any) -> None:
        for one in tree["optimizer_state_dict"]["single_partition_of_fp32_groups"]:
            one.mul_(1 + 0.01 * torch.randn(one.shape))
        for state in base(tree)["state"].values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name].mul_(1 + 0.1 * torch.rand(state[name].shape))

    change(folder, MODEL, model)
    change(folder, OPTIMIZER, optimizer)


def _set(name: str, value: float) -> Callable[[Any], object]:
    return lambda tree: tensor(tree, name).view(-1)[7:8].fill_(value)


def cut(folder: Path) -> None:
    os.truncate(folder / OPTIMIZER, (folder / OPTIMIZER).stat().st_size // 2)


def stale(folder: Path) -> None:
    kept = (folder / OPTIMIZER).read_bytes()
    later(folder)
    (folder / OPTIMIZER).write_bytes(kept)


def frozen(folder: Path) -> None:
    before = tensor(torch.load(folder / MODEL, weights_only=False), MLP).clone()
    later(folder)
    # Without float32 copies the weights themselves are compared.
    change(folder, MODEL, lambda tree: tensor(tree, MLP).copy_(before))
    (folder / OPTIMIZER).unlink()


def exploded(folder: Path) -> None:
    later(folder)
    change(folder, MODEL, lambda tree: tensor(tree, HEAD).mul_(50))
    (folder / OPTIMIZER).unlink()


DEFECTS: dict[str, Callable[[Path], object]] = {
    "healthy": lambda _: None,
    "later": later,
    "nan": lambda folder: change(folder, MODEL, _set(HEAD, float("nan"))),
    "infinite": lambda folder: change(folder, MODEL, _set(MLP, float("inf"))),
    "zeroed": lambda folder: change(folder, MODEL, lambda tree: tensor(tree, MLP).zero_()),
    "cut": cut,
    "model-missing": lambda folder: (folder / MODEL).unlink(),
    "rank-missing": lambda folder: change(folder, MODEL, lambda tree: tree.update(dp_world_size=2)),
    "step": lambda folder: change(folder, MODEL, lambda tree: tree.update(global_steps=tree["global_steps"] + 100)),
    "moments": lambda folder: change(
        folder, OPTIMIZER, lambda tree: moments(tree)["exp_avg_sq"][3:4].fill_(float("nan"))
    ),
    "stale": stale,
    "frozen": frozen,
    "exploded": exploded,
}


def main(tag: Path, root: Path) -> None:
    for name, plant in DEFECTS.items():
        folder = root / name / tag.name
        shutil.copytree(tag, folder)
        plant(folder)


if __name__ == "__main__":
    with torch.no_grad():
        main(Path(sys.argv[1]), Path(sys.argv[2]))
