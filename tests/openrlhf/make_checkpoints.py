"""Writes small checkpoints with torch, safetensors and DeepSpeed, and what they hold; a program of the OpenRLHF
environment.

Usage: ``python make_checkpoints.py FOLDER [--deepspeed]``. Beside each ``NAME`` appears ``NAME.json``: for each tensor
its type, shape and bytes (hex, row-major). With ``--deepspeed`` real DeepSpeed trains a small model on two processes
and saves it, ZeRO 0 to 3; ``fp32.json`` beside a tag is what DeepSpeed's own zero_to_fp32 makes of it. The recorded
files of ``tests/fixtures/checkpoints`` were made with it.
"""

from __future__ import annotations

import collections
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]
from safetensors.torch import save_file  # type: ignore[import-not-found]

KINDS = ("zero0", "zero1", "zero2", "zero3", "bf16")
WORLD = 2


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


def train(kind: str, folder: Path) -> None:
    """One of two processes (RANK) that train and save a model."""
    import deepspeed  # type: ignore[import-not-found]

    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 3))
    model[0].bias.requires_grad_(False)
    decayed = [one for one in model.parameters() if one.requires_grad and one.dim() > 1]
    others = [one for one in model.parameters() if one.requires_grad and one.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], 0.01
    )
    stage = 1 if kind == "bf16" else int(kind[-1])
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {"stage": stage, "reduce_bucket_size": 100, "sub_group_size": 30},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if kind != "zero0":
        config["bf16"] = {"enabled": True}
    if kind == "bf16":
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, lr_scheduler=scheduler)
    dtype = torch.float32 if kind == "zero0" else torch.bfloat16
    for step in range(3):
        loss = engine(torch.randn(2, 5, dtype=dtype) + step).float().pow(2).mean()
        engine.backward(loss)
        engine.step()
    client = {
        "episode": 1,
        "global_step": 12,
        "total_consumed_prompts": 384,
        "data_loader_state_dict": {"sampler": [1]},
    }
    engine.save_checkpoint(str(folder), tag="global_step12", client_state=client)
    if kind != "zero0" and os.environ["RANK"] == "0":
        from deepspeed.utils.zero_to_fp32 import (  # type: ignore[import-not-found]
            get_fp32_state_dict_from_zero_checkpoint,
        )

        whole = get_fp32_state_dict_from_zero_checkpoint(str(folder), "global_step12")
        (folder / "fp32.json").write_text(json.dumps(described(dict(whole))) + "\n", "utf-8")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[2:3] == ["--train"]:
        train(sys.argv[3], Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]))
