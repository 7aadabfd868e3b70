"""Computes the signals of made-up experiences with real tensors; a program of the OpenRLHF environment.

Usage: ``python signals_in_torch.py FOLDER DTYPE``. Every ``FOLDER/*.npz`` has arrays ``<i>/<field>`` and, as JSON, the
arguments; its floats of tokens become tensors of ``DTYPE``. Beside it appear ``<name>.json``, the signals, and
``<name>.cast.npz``, the arrays as the tensors held them. What failed goes to standard error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]

from rlhfd_emitter.hook import Hook
from rlhfd_emitter.process import Process
from rlhfd_emitter.signals.batch import Batch
from rlhfd_emitter.signals.experience import GROUPS
from rlhfd_emitter.signals.groups import compute

# As before 0.10.2.
FLAT = {
    "ds.packing_samples": "packing_samples",
    "ds.ring_attn_size": "ring_attn_size",
    "ds.tensor_parallel_size": "ds_tensor_parallel_size",
    "train.dynamic_batch_enable": "use_dynamic_batch",
    "rollout.max_tokens_per_gpu": "rollout_max_tokens_per_gpu",
}


def experiences(arrays: dict[str, Any], dtype: Any) -> list[Any]:
    found: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        i, _, field = name.partition("/")
        if field == "index":
            found.setdefault(i, {})[field] = array.tolist()
        elif field:
            tensor = torch.from_numpy(array)
            narrow = tensor.is_floating_point() and tensor.dim() == 2
            found.setdefault(i, {})[field] = tensor.to(dtype) if narrow else tensor
    return [SimpleNamespace(**fields, info={}) for _, fields in sorted(found.items())]


def cast(made: list[Any]) -> dict[str, Any]:
    return {
        f"{i}/{name}": (value.double() if value.is_floating_point() else value).numpy()
        for i, experience in enumerate(made)
        for name, value in vars(experience).items()
        if isinstance(value, torch.Tensor)
    }


def maker(args: dict[str, Any]) -> Any:
    flat = SimpleNamespace(reward_clip_range=args["reward.clip_range"])
    flat.n_samples_per_prompt = args["rollout.n_samples_per_prompt"]
    for name, old in FLAT.items():
        setattr(flat, old, args.get(name))
    estimator = args["algo.advantage.estimator"]
    return SimpleNamespace(args=flat, advantage_estimator=estimator, kl_ctl=SimpleNamespace(value=0.01))


class Reported(Process):
    """Says what failed."""

    def report_failed(self, hook: Hook) -> None:
        print(hook.name, hook.error, file=sys.stderr)


def main(folder: Path, dtype: Any) -> None:
    for path in sorted(folder.glob("[0-9]*.npz")):
        with np.load(path) as held:
            arrays = dict(held)
        made = experiences(arrays, dtype)
        args = json.loads(str(arrays["args"]))
        values = compute(Reported(), GROUPS, Batch(made, maker(args), {}))
        path.with_suffix(".json").write_text(json.dumps(values))
        np.savez(folder / f"cast-{path.name}", **cast(made))


if __name__ == "__main__":
    main(Path(sys.argv[1]), getattr(torch, sys.argv[2]))
