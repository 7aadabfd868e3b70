"""Statistics of every tensor of a checkpoint by torch itself, in float64. Runs in the environment of OpenRLHF.

Usage: python checkpoint_in_torch.py FOLDER. Prints one JSON object: by ``kind/parameter`` the count, mean, std of the
population, extremes, norm and zeros. Of DeepSpeed's folders the weights of the model, and the float32 copies as
DeepSpeed's own zero_to_fp32 puts them together.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """Every tensor by its kind and name."""
    import torch  # type: ignore[import-not-found]
    from safetensors.torch import load_file  # type: ignore[import-not-found]

    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            yield f"weight/{name}", tensor
    for path in sorted(folder.glob("*.bin")):
        for name, tensor in torch.load(path, map_location="cpu", weights_only=True).items():
            yield f"weight/{name}", tensor
    models = sorted(folder.glob("*mp_rank_00_model_states.pt"))
    if not models:
        return
    module = torch.load(models[0], map_location="cpu", weights_only=False)["module"]
    yield from ((f"weight/{name}", tensor) for name, tensor in module.items() if tensor.numel())
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint  # type: ignore[import-not-found]

    for name, tensor in get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), folder.name).items():
        yield f"master/{name}", tensor


def told(folder: Path) -> dict[str, dict[str, float]]:
    """Of every tensor in ``folder``."""
    import torch

    found: dict[str, dict[str, float]] = {}
    for key, tensor in tensors(folder):
        exact = tensor.to(torch.float64).flatten()
        found[key] = {
            "elements": exact.numel(),
            "mean": exact.mean().item(),
            "std": exact.std(correction=0).item(),
            "min": exact.min().item(),
            "max": exact.max().item(),
            "norm": exact.norm().item(),
            "zeros": int((exact == 0).sum()),
        }
    return found


def main() -> None:
    print(json.dumps(told(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
