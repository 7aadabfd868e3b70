"""Computes the signals of made-up training calls with real tensors; a program of the OpenRLHF environment.

Usage: ``python training_in_torch.py FOLDER DTYPE``. The floats of tokens in ``FOLDER/<kind>-<seed>.npz`` become tensors
of ``DTYPE`` with a gradient. Beside it appear ``<name>.json``, the signals, and ``cast-<name>.npz``, the arrays as the
tensors held them. Then the same once more without data (``meta``), where reading a number fails: a micro-batch waits
for no device. What failed goes to standard error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]

from in_place import Recorder
from rlhfd_emitter.hook import Hook
from rlhfd_emitter.process import Process
from rlhfd_emitter.signals import critic, micro_batches, policy, totals
from trainings import CRITIC, POLICY, PolicyLoss, ValueLoss, run


class Reported(Process):
    """Says what failed."""

    def __init__(self) -> None:
        super().__init__()
        self.emitter = Recorder()  # type: ignore[assignment]

    def report_failed(self, hook: Hook) -> None:
        print(hook.name, hook.error, file=sys.stderr)


def without_data(kind: str) -> None:
    """Every group of signals on tensors that have only a shape."""
    loss = PolicyLoss(clip_eps_low=0.2, clip_eps_high=0.2, dual_clip=2.0) if kind == "policy" else ValueLoss(clip_eps=1)
    module: Any = policy if kind == "policy" else critic
    names = POLICY if kind == "policy" else CRITIC
    held, rows = totals.Totals(getattr(module, "GREATEST", ())), totals.Rows()
    for _ in range(2):
        for _ in range(2):
            tensors = [torch.ones(3, 5, device="meta", requires_grad=True) for _ in names[:-1]]
            rows.put([*tensors, torch.ones(3, 5, device="meta")])
        given = module.Batch(module.Settings.of(loss), *rows.take())
        held.add({name: value for group in module.GROUPS.values() for name, value in group(given).items()})
    for name, value in held.complete().items():
        assert (value.dim(), value.requires_grad) == (0, False), name
        assert value.dtype in (torch.float64, torch.int64), name
    masks = micro_batches.Masks()
    masks.put(torch.ones(3, 5, device="meta"), torch.ones(2, 4, dtype=torch.bool, device="meta"))
    assert masks.shapes == [(5, 5)]


def main(folder: Path, dtype: Any) -> None:
    for path in sorted(folder.glob("[cp]*-[0-9]*.npz")):
        kind = path.name.partition("-")[0]
        if kind == "cast":
            continue
        with np.load(path) as held:
            arrays = dict(held)

        def make(array: Any) -> Any:
            made = torch.from_numpy(array)
            return made.to(dtype).requires_grad_() if made.is_floating_point() else made

        cast = {name: make(array).detach().double().numpy() for name, array in arrays.items() if "/" in name}
        np.savez(folder / f"cast-{path.name}", **{**arrays, **cast})
        path.with_suffix(".json").write_text(json.dumps(run(Reported(), kind, arrays, make=make)))
    for kind in ("policy", "critic"):
        without_data(kind)


if __name__ == "__main__":
    main(Path(sys.argv[1]), getattr(torch, sys.argv[2]))
