"""Tensors of every type as raw bytes, and torch's own statistics of them in float64; a program of the OpenRLHF
environment.

Usage: ``python statistics_in_torch.py FOLDER``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "bool")
ELEMENTS = 200_003


def tensors() -> dict[str, Any]:
    """Weights as they are initialised, weights far from zero, with and without what is not finite, and all codes."""
    torch.manual_seed(0)
    normal, made = torch.randn(ELEMENTS, dtype=torch.float64) * 0.02, {}
    for dtype in FLOATS:
        made[f"{dtype}/weights"] = normal.to(getattr(torch, dtype))
        made[f"{dtype}/far"] = (normal + 1.0).to(getattr(torch, dtype))
        spoiled = normal.clone()
        spoiled[::1000], spoiled[5::7000], spoiled[7::9000] = torch.nan, torch.inf, -torch.inf
        made[f"{dtype}/spoiled"] = spoiled.to(getattr(torch, dtype))
        if made[f"{dtype}/weights"].element_size() <= 2:
            made[f"{dtype}/codes"] = codes(made[f"{dtype}/weights"].element_size()).view(getattr(torch, dtype))
    for dtype in INTEGERS:
        made[f"{dtype}/numbers"] = torch.randint(0, 100, (ELEMENTS,)).to(getattr(torch, dtype))
    return made


def codes(width: int) -> Any:
    """Every one of ``width`` bytes."""
    return torch.arange(1 << 8 * width).to(torch.int32).to(torch.uint8 if width == 1 else torch.int16)


def told(tensor: Any) -> dict[str, Any]:
    """By torch, of the finite values."""
    every = tensor.to(torch.float64)
    finite = every[torch.isfinite(every)]
    return {
        "elements": every.numel(),
        "nan": int(torch.isnan(every).sum()),
        "infinite": int(torch.isinf(every).sum()),
        "zeros": int((finite == 0).sum()),
        "mean": float(finite.mean()),
        "std": float(finite.std(correction=0)),
        "min": float(finite.min()),
        "max": float(finite.max()),
        "norm": float(torch.linalg.vector_norm(finite)),
        "quantiles": torch.quantile(finite, torch.tensor(QUANTILES, dtype=torch.float64)).tolist(),
    }


def compared(old: Any, new: Any) -> dict[str, float]:
    """By torch, of two tensors without what is not finite."""
    a, b = old.to(torch.float64), new.to(torch.float64)
    return {
        "relative_update": float(torch.linalg.vector_norm(b - a) / torch.linalg.vector_norm(a)),
        "cosine": float(torch.nn.functional.cosine_similarity(a, b, dim=0)),
        "largest_change": float((b - a).abs().max()),
    }


def main(folder: Path) -> None:
    """Write ``<dtype>/<kind>`` files and ``told.json``."""
    made, result = tensors(), {}
    for name, tensor in made.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes(tensor.contiguous().view(torch.uint8).numpy()))
        result[name] = told(tensor)
    pairs = {f"{one}/weights {other}/far": (one, other) for one in FLOATS for other in FLOATS}
    both = {name: compared(made[f"{one}/weights"], made[f"{other}/far"]) for name, (one, other) in pairs.items()}
    (folder / "told.json").write_text(json.dumps({"tensors": result, "pairs": both}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
