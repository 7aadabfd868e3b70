"""Writes small checkpoints with torch and safetensors, and what they hold; a program of the OpenRLHF environment.

Usage: ``python make_checkpoints.py FOLDER``. Beside each ``NAME`` appears ``NAME.json``: for each tensor its type,
shape and bytes (hex, row-major). The files of ``tests/fixtures/checkpoints`` were made with it.
"""

from __future__ import annotations

import collections
import json
import sys
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]
from safetensors.torch import save_file  # type: ignore[import-not-found]


def tensors() -> dict[str, Any]:
    """Every type and every way to lie in a storage."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7 - 1
    found = {str(dtype).removeprefix("torch."): base.to(dtype) for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.int64, torch.int32, torch.int16, torch.int8,
    )}  # fmt: skip
    found["uint8"] = torch.arange(24, dtype=torch.uint8)
    found["bool"] = base > 0
    found["scalar"] = torch.tensor(3.5)
    found["empty"] = torch.empty(0, 3)
    return found


def trees() -> dict[str, Any]:
    """What torch.save is given."""
    found = tensors()
    base = torch.arange(60, dtype=torch.float32).reshape(5, 4, 3)
    odd = {"transposed": base.transpose(0, 2), "sliced": base[1:, ::2, 1], "expanded": base[0, 0].expand(4, 3)}
    tied = {"one": base, "two": base, "part": base[2:]}
    nested = {"list": [base[0], {"deeper": (base[1], 7)}], "int": 5, "text": "ä", "none": None, 3: base[2]}
    parameters = collections.OrderedDict(weight=torch.nn.Parameter(base), buffer=base.half())
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    module(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    return {
        "types": found, "strided": odd, "tied": tied, "nested": nested, "parameters": parameters,
        "module": module.state_dict(), "optimizer": optimizer.state_dict(), "bare": base[:, 1],
    }  # fmt: skip


def described(value: Any, path: str = "") -> dict[str, Any]:
    """All tensors in ``value`` by path."""
    if isinstance(value, torch.Tensor):
        plain = value.detach().contiguous()
        raw = bytes(plain.reshape(-1).view(torch.uint8).tolist()) if plain.numel() else b""
        return {path: {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "hex": raw.hex()}}
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    found: dict[str, Any] = {}
    for key, item in pairs:
        found.update(described(item, f"{path}.{key}" if path else str(key)))
    return found


def write(path: Path, value: Any) -> None:
    path.with_name(f"{path.name}.json").write_text(json.dumps(described(value)) + "\n", "utf-8")


def main(folder: Path) -> None:
    torch.manual_seed(0)
    for name, tree in trees().items():
        torch.save(tree, folder / f"{name}.pt")
        write(folder / f"{name}.pt", tree)
    torch.save(trees()["nested"], folder / "protocol4.pt", pickle_protocol=4)
    write(folder / "protocol4.pt", trees()["nested"])
    torch.save(trees()["nested"], folder / "legacy.pt", _use_new_zipfile_serialization=False)
    write(folder / "legacy.pt", trees()["nested"])
    plain = {name: one.contiguous() for name, one in tensors().items()}
    save_file(plain, folder / "types.safetensors", metadata={"format": "pt"})
    write(folder / "types.safetensors", plain)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
